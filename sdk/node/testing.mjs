import testing from './testing.cjs';

export const { Platform } = testing;
