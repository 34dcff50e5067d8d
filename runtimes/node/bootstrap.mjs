// Runs a Node.js function: asks the Runtime API for events, hands them to the
// handler, and posts what it returns. Handlers are written as for AWS Lambda:
// async, with a callback, or plain; ES modules and CommonJS.
//
// No dependencies; one connection; one event at a time, unless the function's
// concurrency says otherwise: see parallel.mjs. Runs on Node.js 18.

import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { inspect } from 'node:util';

import { Connection } from './connection.mjs';
import { ResponseStream, streams } from './streaming.mjs';

const NEXT = '/2018-06-01/runtime/invocation/next';
const INVOCATION = '/2018-06-01/runtime/invocation/';
const INIT_ERROR = '/2018-06-01/runtime/init/error';
const ASSIGNMENT = '/dayfly/v1/assignment';
const ROOT = '/';
const JSON_TYPE = 'Content-Type: application/json\r\n';

const MAX_MESSAGE = 32 << 10; // characters of an error's message
const MAX_FRAMES = 100;

const HERE = path.dirname(fileURLToPath(import.meta.url));
const exit = process.exit.bind(process);

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
    .filter((line) => !line.includes(HERE) && !/\(?node:|\(<anonymous>\)$/.test(line)).map((line) => line.trim()).slice(0, MAX_FRAMES);
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

// errorReport prints a thrown value and returns the body and headers that report it.
function errorReport(thrown, kind) {
  const report = describe(thrown, kind);
  const type = report.errorType.replace(/[^ -~]/g, '?');
  return [JSON.stringify(report), `${JSON_TYPE}Lambda-Runtime-Function-Error-Type: ${type}\r\n`];
}

function encode(result) {
  try {
    return JSON.stringify(result === undefined ? null : result) ?? 'null';
  } catch (error) {
    const type = result?.constructor?.name ?? typeof result;
    throw new FunctionError('Runtime.MarshalError', `the handler's result (${type}) cannot be written as JSON: ${error.message}`);
  }
}

function decode(body) {
  if (body.length === 0) return {};
  try {
    return JSON.parse(body.toString());
  } catch (error) {
    throw new FunctionError('Runtime.UnmarshalError', `the event is not JSON: ${error.message}`);
  }
}

function makeContext(event) {
  const env = process.env;
  const deadline = Number(event.header('lambda-runtime-deadline-ms'));
  const outputDir = env.DAYFLY_OUTPUT_DIR ?? '/mnt/output';
  return {
    callbackWaitsForEmptyEventLoop: true,
    awsRequestId: event.header('lambda-runtime-aws-request-id'),
    invokedFunctionArn: event.header('lambda-runtime-invoked-function-arn'),
    functionName: env.AWS_LAMBDA_FUNCTION_NAME ?? '',
    functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION ?? '',
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE ?? '',
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME ?? '',
    logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME ?? '',
    identity: undefined,
    clientContext: parseOrUndefined(event.header('lambda-runtime-client-context')),
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
      throw new FunctionError('Runtime.UserCodeSyntaxError', `${error.message}${await syntaxErrorPlace(file, error)}`);
    }
    throw error;
  }
}

// syntaxErrorPlace says where a syntax error is, which Node.js itself tells
// only the terminal.
async function syntaxErrorPlace(file, error) {
  const { spawnSync } = await import('node:child_process'); // seldom needed, and slow to load
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

// run has the handler answer one event: it resolves to where to, body and headers.
async function run(event, handler, current) {
  const context = current.context = makeContext(event);
  const trace = event.header('lambda-runtime-trace-id');
  context.traceId = trace;
  if (trace && !current.besides) process.env._X_AMZN_TRACE_ID = trace;
  const target = INVOCATION + context.awsRequestId;
  current.target = target + '/error';
  if (streams(handler)) return stream(event, handler, context, current, target);
  try {
    const result = await settle(handler, decode(event.body), context);
    return [target + '/response', encode(result), JSON_TYPE];
  } catch (error) {
    return current.dying ? null : [target + '/error', ...errorReport(error)];
  }
}

// stream has the handler answer one event while it makes the answer: it resolves to what
// ends the answer and asks for what is next, or, if it did not begin, as run does.
async function stream(event, handler, context, current, target) {
  const to = new ResponseStream(current.api, target + '/response');
  current.stream = to;
  try {
    await settle((event, context) => handler(event, to, context), decode(event.body), context);
    await to.done();
    return (next) => to.close(next);
  } catch (error) {
    if (current.dying) return null;
    if (!to.opened) return [target + '/error', ...errorReport(error)];
    const report = describe(error);
    return (next) => to.close(next, report);
  } finally {
    current.stream = null;
  }
}

// serve runs events one after the other, on a connection that nobody else uses.
async function serve(api, handler, current, runs = run) {
  for (let next = await api.request('GET', NEXT); ;) {
    if (next.status !== 200) throw new Error(`the Runtime API answered ${next.status} to ${NEXT}`);
    const answer = await runs(next, handler, current);
    if (current.dying) return;
    current.target = null;
    next = typeof answer === 'function' ? await answer(NEXT) : await api.post(...answer, NEXT);
  }
}

// serveMany runs events in so many loops beside each other, each on a connection of its
// own. While one of them waits for an event, the process is never idle: a promise that
// can never settle, or a callback that never comes, runs into the timeout.
async function serveMany(parallel, atOnce, api, handler, main) {
  process.setMaxListeners(process.getMaxListeners() + atOnce);
  parallel.markOutput();
  const runs = (event, handler, current) =>
    parallel.within(current, event.header('lambda-runtime-aws-request-id'), () => run(event, handler, current));
  main.target = null;
  main.whose = parallel.current;
  const loops = Array.from({ length: atOnce }, (_, n) => {
    const current = Object.create(main); // dies with it
    current.api = n === 0 ? api : new Connection(process.env.DAYFLY_RUNTIME_SOCKET);
    current.besides = true;
    return serve(current.api, handler, current, runs);
  });
  await Promise.all(loops);
}

// rehearse does what a cold call will do, before anybody waits for it: Node.js loads
// and compiles most of its own parts when they are first used. It ends early when the
// function is known. The Runtime API has nothing at ROOT and says so, which is an
// answer as good as any.
async function rehearse(isKnown) {
  const api = new Connection(process.env.DAYFLY_RUNTIME_SOCKET);
  for (const kind of ['module', 'commonjs']) {
    if (isKnown()) break;
    const handler = await load(`rehearsal/${kind}.handler`, HERE);
    const event = await api.request('GET', ROOT);
    event.body = Buffer.from('{}');
    const [, body, headers] = await run(event, handler, {});
    await api.post(ROOT, body, headers, ROOT);
  }
  api.close();
}

// prepare waits for the function and makes the process fit for it. It resolves to what
// serves it.
async function prepare(api) {
  let known = false;
  const asked = api.request('GET', ASSIGNMENT).finally(() => { known = true; });
  await Promise.race([asked, rehearse(() => known)]);
  const answer = await asked;
  if (answer.status !== 200) throw new Error(`the Runtime API answered ${answer.status} to ${ASSIGNMENT}`);
  const assignment = JSON.parse(answer.body.toString());
  Object.assign(process.env, assignment.env);
  const root = assignment.taskRoot ?? '/var/task';
  process.chdir(root);
  const parallel = assignment.concurrency > 1 ? await import('./parallel.mjs') : null;
  const handler = await load(assignment.handler, root);
  if (parallel === null) return (current) => serve(api, handler, current);
  return (current) => serveMany(parallel, assignment.concurrency, api, handler, current);
}

// dieOf reports what nobody caught, and ends the process.
async function dieOf(main, thrown, kind) {
  if (main.dying) return;
  main.dying = true;
  const { api, target, stream } = main.whose() ?? main;
  try {
    // While it waits for an event there is no one to report to but the log.
    if (target === null) describe(thrown, kind);
    else if (stream?.opened) await stream.close(undefined, describe(thrown, kind));
    else await api.request('POST', target, ...errorReport(thrown, kind));
  } finally {
    exit(1);
  }
}

async function main() {
  // Otherwise what is printed last is lost when the pipe is full at exit.
  for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
  const api = new Connection(process.env.DAYFLY_RUNTIME_SOCKET);
  const current = { api, target: INIT_ERROR, dying: false, whose: () => null };
  // The SDK looks here for the invocation in whose course it is called.
  globalThis[Symbol.for('dayfly.current')] = () => (current.whose() ?? current).context;
  process.on('uncaughtException', (error, origin) => {
    dieOf(current, error, origin === 'unhandledRejection' ? 'Runtime.UnhandledPromiseRejection' : undefined);
  });
  let serves;
  try {
    serves = await prepare(api);
  } catch (error) {
    await dieOf(current, error);
  }
  if (current.dying) return;
  await serves(current);
}

main().catch((error) => {
  process.stdout.write(`[ERROR] Dayfly's Node.js runtime gives up: ${error.message}\n`);
  exit(1);
});
