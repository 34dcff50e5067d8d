import dayfly from './index.cjs';

export const { DayflyError, config, context, invoke, invokeAsync, log, publish, put, secret, traceparent } = dayfly;
export default dayfly;
