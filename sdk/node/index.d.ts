/**
 * Why a call failed. `code` is stable: `function.error` and other `function.*` are
 * failures of the function that was called, any other is a failure of the call.
 */
export class DayflyError extends Error {
  constructor(code: string, message: string, more?: {
    type?: string; trace?: string[]; logs?: string; invocation?: string; retryable?: boolean; retryAfter?: number;
  });
  readonly code: string;
  /** The called function's own: the error's name, its stack, and the last lines that it printed. */
  readonly type: string;
  readonly trace: string[];
  readonly logs: string;
  /** The invocation that the call made; empty for none. */
  readonly invocation: string;
  /** Nothing ran: the same call may be made again, after `retryAfter` milliseconds. */
  readonly retryable: boolean;
  readonly retryAfter: number;
}

/** The function's configuration, as `dayfly config set` made it; current within a second. */
export interface Config {
  get(key: string): Promise<string | undefined>;
  get(key: string, fallback: string): Promise<string>;
  all(): Promise<Record<string, string>>;
  /** Calls `hook` after every change, one after the other. Resolves to what ends that. */
  onChange(hook: (old: Record<string, string>, values: Record<string, string>) => void | Promise<void>): Promise<() => void>;
}
export const config: Config;

/** An invocation. */
export interface Context {
  readonly invocationId: string;
  /** When the process is killed. */
  readonly deadline: Date;
  readonly namespace: string;
  readonly function: string;
  readonly version: string;
  readonly arn: string;
  readonly traceId: string;
  readonly memoryMiB: number;
  readonly outputDir: string;
  /** How many milliseconds are left. */
  remaining(): number;
}
/** The invocation in whose course this is called; throws where there is none. */
export function context(): Context;

/** The W3C trace context that came with an HTTP request; empty for none. */
export function traceparent(event: unknown): string;

/**
 * Calls another function and resolves to its result. `ref` is
 * `name[.namespace][:version-or-alias]`; one without a namespace means the caller's own.
 * `event` is sent as JSON, bytes as they are, and may have 6 MiB. What is not JSON comes
 * as a Buffer. Rejects with a `DayflyError`.
 */
export function invoke<Out = unknown>(ref: string, event?: unknown, options?: { signal?: AbortSignal }): Promise<Out>;

/**
 * Has another function called later, and resolves to the invocation's ID. Then the event
 * is on disk and will be run, with retries. A repeat with the same key is the same event
 * for a day. `event` may have 100 MiB.
 */
export function invokeAsync(ref: string, event?: unknown, options?: { idempotencyKey?: string }): Promise<string>;

/** Sends a message, as JSON or bytes as they are, to all who listen to a NATS subject. */
export function publish(subject: string, message: unknown): Promise<void>;

/** Leaves a file of the invocation's output. Returns its path. */
export function put(name: string, data: string | Uint8Array): string;

/** A secret that the manifest names, as it is now; throws where there is none. */
export function secret(name: string): string;

/** Prints JSON lines with levels, as `dayfly logs --level` reads them. */
export interface Log {
  debug(msg: string, fields?: Record<string, unknown>): void;
  info(msg: string, fields?: Record<string, unknown>): void;
  warn(msg: string, fields?: Record<string, unknown>): void;
  error(msg: string, fields?: Record<string, unknown>): void;
}
export const log: Log;

declare const dayfly: {
  DayflyError: typeof DayflyError; config: Config; context: typeof context; invoke: typeof invoke; invokeAsync: typeof invokeAsync;
  log: Log; publish: typeof publish; put: typeof put; secret: typeof secret; traceparent: typeof traceparent;
};
export default dayfly;
