/** A call that was made of another function. */
export interface Call {
  ref: string;
  event: unknown;
  async: boolean;
  idempotencyKey: string;
  invocation: string;
}

/** A message that was published. */
export interface Message {
  subject: string;
  data: Uint8Array;
}

/** Plays Dayfly for one test at a time. */
export class Platform {
  static start(options?: { timeout?: number }): Promise<Platform>;
  stop(): Promise<void>;
  /** AWS Lambda's context of the invocation that is played, for a handler. */
  readonly context: any;
  readonly outputDir: string;
  readonly calls: Call[];
  readonly published: Message[];
  /** Has calls of `ref`, as callers write it, answered by `fn`. */
  handle(ref: string, fn: (event: any) => unknown): void;
  setConfig(values: Record<string, string>): void;
  setSecret(name: string, value: string): void;
  /** What `put` left under a name. */
  output(name: string): Uint8Array;
}
