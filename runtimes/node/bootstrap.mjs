// Runs a Node.js function: asks the Runtime API for events, hands them to the
// handler, and posts what it returns. Handlers are written as for AWS Lambda:
// async, with a callback, or plain; ES modules and CommonJS.
//
// No dependencies; one connection; one event at a time. Runs on Node.js 18.

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { inspect } from 'node:util';

const NEXT = '/2018-06-01/runtime/invocation/next';
const INVOCATION = '/2018-06-01/runtime/invocation/';
const INIT_ERROR = '/2018-06-01/runtime/init/error';
const ASSIGNMENT = '/dayfly/v1/assignment';

const MAX_RESULT = 10 << 20; // bytes: wire.MaxEvent
const MAX_MESSAGE = 32 << 10; // characters of an error's message
const MAX_FRAMES = 100;
const MAX_HEAD = 256 << 10; // bytes of a response's status line and headers

const SELF = fileURLToPath(import.meta.url);
const exit = process.exit.bind(process);

// Api is a minimal HTTP/1.1 client on a unix socket: one request at a time.
class Api {
  #socket;
  #pending = [];
  #size = 0;
  #wake = null;
  #closed = null;

  constructor(socketPath) {
    this.#socket = net.connect(socketPath);
    this.#socket.on('data', (data) => {
      this.#pending.push(data);
      this.#size += data.length;
      this.#wake?.();
    });
    const close = (error) => {
      this.#closed ??= error ?? new Error('the Runtime API closed the connection');
      this.#wake?.();
    };
    this.#socket.on('error', close);
    this.#socket.on('close', () => close());
  }

  // request resolves to {status, headers, body}; header names are lower case.
  async request(method, target, body = Buffer.alloc(0), headers = {}) {
    this.#socket.ref();
    let head = `${method} ${target} HTTP/1.1\r\nHost: dayfly\r\nContent-Length: ${body.length}\r\n`;
    for (const [name, value] of Object.entries(headers)) head += `${name}: ${value.replace(/[^ -~]/g, '?')}\r\n`;
    this.#socket.cork();
    this.#socket.write(head + '\r\n');
    if (body.length > 0) this.#socket.write(body);
    this.#socket.uncork();
    const response = await this.#response();
    // Between requests the socket keeps nobody awake: see settle.
    this.#socket.unref();
    return response;
  }

  async #response() {
    let status, lines;
    do {
      lines = (await this.#until('\r\n\r\n')).toString('latin1').split('\r\n');
      status = Number(lines.shift().split(' ', 2)[1]);
    } while (status < 200);
    const headers = {};
    for (const line of lines) {
      const colon = line.indexOf(':');
      headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
    }
    const chunked = (headers['transfer-encoding'] ?? '').includes('chunked');
    const body = chunked ? await this.#chunks() : await this.#exactly(Number(headers['content-length'] ?? 0));
    return { status, headers, body };
  }

  async #chunks() {
    const chunks = [];
    for (;;) {
      const size = parseInt(await this.#until('\r\n'), 16);
      if (size === 0) break;
      chunks.push(await this.#exactly(size));
      await this.#exactly(2);
    }
    while ((await this.#until('\r\n')).length > 0); // trailers
    return Buffer.concat(chunks);
  }

  async #until(end) {
    for (;;) {
      const data = this.#joined();
      const at = data.indexOf(end);
      if (at >= 0) {
        this.#keep(data.subarray(at + end.length));
        return data.subarray(0, at);
      }
      if (this.#size > MAX_HEAD) throw new Error('the Runtime API sent a header without end');
      await this.#more();
    }
  }

  async #exactly(size) {
    while (this.#size < size) await this.#more();
    const data = this.#joined();
    this.#keep(data.subarray(size));
    return data.subarray(0, size);
  }

  #joined() {
    if (this.#pending.length !== 1) this.#pending = [Buffer.concat(this.#pending)];
    return this.#pending[0];
  }

  #keep(rest) {
    this.#pending = rest.length > 0 ? [rest] : [];
    this.#size = rest.length;
  }

  async #more() {
    if (this.#closed) throw this.#closed;
    const before = this.#size;
    await new Promise((resolve) => { this.#wake = resolve; });
    this.#wake = null;
    if (this.#closed && this.#size === before) throw this.#closed;
  }
}

// FunctionError is a failure of the function that has a name of its own and
// needs no stack.
class FunctionError extends Error {
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

// ownStack returns the lines of an error's stack that are the function's.
function ownStack(error) {
  if (error instanceof FunctionError || typeof error?.stack !== 'string') return [];
  return error.stack.split('\n').filter((line) => /^\s+at /.test(line))
    .filter((line) => !line.includes(SELF) && !/\(?node:|\(<anonymous>\)$/.test(line)).map((line) => line.trim()).slice(0, MAX_FRAMES);
}

// describe prints a thrown value, so that it is in the log, and returns what
// the Runtime API wants to know of it.
function describe(thrown, kind) {
  const isError = thrown instanceof Error || (typeof thrown === 'object' && typeof thrown?.stack === 'string');
  const errorType = String(kind ?? (isError ? thrown.name || 'Error' : typeof thrown));
  let errorMessage = isError ? String(thrown.message) : typeof thrown === 'string' ? thrown : inspect(thrown);
  const stackTrace = ownStack(thrown);
  const shown = isError && thrown.name !== errorType ? `${errorType}: ${thrown.name}` : errorType;
  let text = [`[ERROR] ${shown}: ${errorMessage}`, ...stackTrace.map((line) => '    ' + line)].join('\n');
  for (let cause = thrown?.cause, depth = 0; cause !== undefined && depth < 5; cause = cause?.cause, depth++) {
    text += `\nCaused by: ${cause instanceof Error ? [`${cause.name}: ${cause.message}`, ...ownStack(cause)].join('\n    ') : inspect(cause)}`;
  }
  process.stdout.write(text + '\n');
  if (errorMessage.length > MAX_MESSAGE) errorMessage = errorMessage.slice(0, MAX_MESSAGE) + '…';
  return { errorType, errorMessage, stackTrace };
}

async function postError(api, target, thrown, kind) {
  const report = describe(thrown, kind);
  const headers = { 'Content-Type': 'application/json', 'Lambda-Runtime-Function-Error-Type': report.errorType };
  await api.request('POST', target, Buffer.from(JSON.stringify(report)), headers);
}

function encode(result) {
  let text;
  try {
    text = JSON.stringify(result === undefined ? null : result) ?? 'null';
  } catch (error) {
    const type = result?.constructor?.name ?? typeof result;
    throw new FunctionError('Runtime.MarshalError', `the handler's result (${type}) cannot be written as JSON: ${error.message}`);
  }
  const body = Buffer.from(text);
  if (body.length > MAX_RESULT) {
    throw new FunctionError('Function.ResponseSizeTooLarge', `the handler's result has ${body.length} bytes; the limit is ` +
      `${MAX_RESULT}. Leave large results as files in context.outputDir.`);
  }
  return body;
}

function decode(body) {
  if (body.length === 0) return {};
  try {
    return JSON.parse(body.toString());
  } catch (error) {
    throw new FunctionError('Runtime.UnmarshalError', `the event is not JSON: ${error.message}`);
  }
}

function makeContext(headers) {
  const env = process.env;
  const deadline = Number(headers['lambda-runtime-deadline-ms'] ?? 0);
  const outputDir = env.DAYFLY_OUTPUT_DIR ?? '/mnt/output';
  return {
    callbackWaitsForEmptyEventLoop: true,
    awsRequestId: headers['lambda-runtime-aws-request-id'] ?? '',
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'] ?? '',
    functionName: env.AWS_LAMBDA_FUNCTION_NAME ?? '',
    functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION ?? '',
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE ?? '',
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME ?? '',
    logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME ?? '',
    identity: undefined,
    clientContext: parseOrUndefined(headers['lambda-runtime-client-context']),
    getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
    outputDir,
    // put leaves data (string or bytes) as a file of this invocation's output.
    // name is a relative path and may hold folders. Returns the file's path.
    put(name, data) {
      const file = path.resolve(outputDir, String(name));
      if (!file.startsWith(path.resolve(outputDir) + path.sep)) {
        throw new RangeError(`put ${inspect(name)}: the name leaves the output folder; use a relative path below it`);
      }
      fs.mkdirSync(path.dirname(file), { recursive: true });
      if (!path.join(fs.realpathSync(path.dirname(file)), path.sep).startsWith(path.join(fs.realpathSync(outputDir), path.sep))) {
        throw new RangeError(`put ${inspect(name)}: the name leaves the output folder through a link`);
      }
      fs.writeFileSync(file, data);
      return file;
    },
  };
}

function parseOrUndefined(text) {
  try {
    return text ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}

// load imports the file that handler names and returns the function in it.
async function load(handler, root) {
  const base = path.basename(handler);
  const dot = base.indexOf('.');
  if (dot <= 0 || dot === base.length - 1) {
    throw new FunctionError('Runtime.MalformedHandlerName',
      `handler "${handler}" is not of the form file.function, such as index.handler`);
  }
  const stem = path.join(path.dirname(handler), base.slice(0, dot));
  const file = ['.js', '.mjs', '.cjs'].map((end) => path.resolve(root, stem + end)).find((name) => fs.existsSync(name));
  if (file === undefined) {
    const has = fs.readdirSync(root).filter((name) => /\.[mc]?js$/.test(name)).sort().slice(0, 20);
    throw new FunctionError('Runtime.ImportModuleError', `handler "${handler}": there is no ${stem}.js, .mjs or .cjs in the ` +
      `function's folder; it has: ${has.join(', ') || 'no such file'}`);
  }
  const module = await importFile(file);
  const names = base.slice(dot + 1).split('.');
  const found = [module, module.default].map((from) => names.reduce((value, name) => value?.[name], from));
  const fn = found.find((value) => typeof value === 'function');
  if (fn === undefined) {
    const defined = [...new Set([...Object.keys(module.default ?? {}), ...Object.keys(module)])]
      .filter((name) => name !== 'default' && name !== 'module.exports').sort().slice(0, 20);
    throw new FunctionError('Runtime.HandlerNotFound', `handler "${names.join('.')}" not found in ${path.relative(root, file)}; ` +
      `it exports: ${defined.join(', ') || 'nothing'}`);
  }
  return fn;
}

async function importFile(file) {
  try {
    return await import(pathToFileURL(file));
  } catch (error) {
    if (error?.code === 'ERR_MODULE_NOT_FOUND' || error?.code === 'MODULE_NOT_FOUND') {
      const message = error.message.split('\n')[0];
      throw Object.assign(new FunctionError('Runtime.ImportModuleError', message), { cause: error });
    }
    if (error instanceof SyntaxError) {
      throw new FunctionError('Runtime.UserCodeSyntaxError', `${error.message}${syntaxErrorPlace(file, error)}`);
    }
    throw error;
  }
}

// syntaxErrorPlace says where a syntax error is, which Node.js itself tells
// only the terminal.
function syntaxErrorPlace(file, error) {
  const text = error.stack.startsWith('SyntaxError') ? spawnSync(process.execPath, ['--check', file]).stderr?.toString() : error.stack;
  const lines = (text ?? '').split('\n');
  return /:\d+$/.test(lines[0]) ? ` (${lines[0].replace(/^file:\/\//, '')}: ${lines[1]?.trim()})` : '';
}

// settle runs the handler for one event and resolves to its result. A promise
// that can never settle, because nothing is left that could wake the process,
// is a failure; a callback that can never come means null, as on AWS Lambda.
function settle(handler, event, context) {
  return new Promise((resolve, reject) => {
    let called = false, isPromise = false, answer = null;
    const onIdle = () => {
      if (called || !isPromise) finish(resolve, answer);
      else finish(reject, new FunctionError('Runtime.NeverSettled', 'the handler returned a promise that can never settle: nothing is left to wait for'));
    };
    const finish = (how, value) => {
      process.off('beforeExit', onIdle);
      how(value);
    };
    const callback = (error, result) => {
      if (error !== null && error !== undefined) {
        finish(reject, error);
        return;
      }
      called = true;
      answer = result;
      if (!context.callbackWaitsForEmptyEventLoop) finish(resolve, result);
    };
    process.on('beforeExit', onIdle);
    try {
      const returned = handler(event, context, callback);
      isPromise = typeof returned?.then === 'function';
      if (isPromise) returned.then((value) => finish(resolve, value), (error) => finish(reject, error));
      else if (handler.length < 3) finish(resolve, returned);
    } catch (error) {
      finish(reject, error);
    }
  });
}

async function serve(api, handler, current) {
  for (;;) {
    const { status, headers, body } = await api.request('GET', NEXT);
    if (status !== 200) throw new Error(`the Runtime API answered ${status} to ${NEXT}`);
    const context = makeContext(headers);
    if (headers['lambda-runtime-trace-id']) process.env._X_AMZN_TRACE_ID = headers['lambda-runtime-trace-id'];
    const target = INVOCATION + context.awsRequestId;
    current.target = target + '/error';
    let result;
    try {
      result = encode(await settle(handler, decode(body), context));
    } catch (error) {
      if (current.dying) return;
      current.target = null;
      await postError(api, target + '/error', error);
      continue;
    }
    if (current.dying) return;
    current.target = null;
    await api.request('POST', target + '/response', result, { 'Content-Type': 'application/json' });
  }
}

// prepare waits for the function and makes the process fit for it.
async function prepare(api) {
  const { status, body } = await api.request('GET', ASSIGNMENT);
  if (status !== 200) throw new Error(`the Runtime API answered ${status} to ${ASSIGNMENT}`);
  const assignment = JSON.parse(body.toString());
  Object.assign(process.env, assignment.env);
  const root = assignment.taskRoot ?? '/var/task';
  process.chdir(root);
  return load(assignment.handler, root);
}

// dieOf reports what nobody caught, and ends the process.
async function dieOf(api, current, thrown, kind) {
  if (current.dying) return;
  current.dying = true;
  try {
    // While it waits for an event there is no one to report to but the log.
    if (current.target === null) describe(thrown, kind);
    else await postError(api, current.target, thrown, kind);
  } finally {
    exit(1);
  }
}

async function main() {
  // Otherwise what is printed last is lost when the pipe is full at exit.
  for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
  const api = new Api(process.env.DAYFLY_RUNTIME_SOCKET);
  const current = { target: INIT_ERROR, dying: false };
  process.on('uncaughtException', (error, origin) => {
    dieOf(api, current, error, origin === 'unhandledRejection' ? 'Runtime.UnhandledPromiseRejection' : undefined);
  });
  let handler;
  try {
    handler = await prepare(api);
  } catch (error) {
    await dieOf(api, current, error);
  }
  if (current.dying) return;
  await serve(api, handler, current);
}

main().catch((error) => {
  process.stdout.write(`[ERROR] Dayfly's Node.js runtime gives up: ${error.message}\n`);
  exit(1);
});
