// What a Dayfly function may ask of its platform. No dependencies; for Node.js 18 and
// newer. Handlers written for AWS Lambda need none of it.

'use strict';

const fs = require('node:fs');
const path = require('node:path');

const platform = require('./platform.cjs');

const SECRETS = '/run/secrets';
const PAUSE = 1000; // milliseconds between two questions when the platform does not answer

// DayflyError says why a call failed; see index.d.ts.
class DayflyError extends Error {
  constructor(code, message, more = {}) {
    super(message);
    this.name = 'DayflyError';
    this.code = code;
    this.type = more.type ?? '';
    this.trace = more.trace ?? [];
    this.logs = more.logs ?? '';
    this.invocation = more.invocation ?? '';
    this.retryable = more.retryable ?? false;
    this.retryAfter = more.retryAfter ?? 0;
  }
}

// problem reads a problem document.
function problem(status, body) {
  try {
    const p = JSON.parse(body.toString());
    if (typeof p.code !== 'string') throw new TypeError('no code');
    return new DayflyError(p.code, p.detail || p.title || '', { ...p, type: p.errorType, retryAfter: p.retryAfterMillis });
  } catch {
    return new DayflyError('internal', `the platform answered ${status}: ${body.toString().slice(0, 200)}`);
  }
}

async function post(target, body, headers = {}, signal = undefined) {
  let answer;
  try {
    answer = await platform.call(target, body, headers, signal);
  } catch (error) {
    if (signal?.aborted) throw signal.reason ?? error;
    throw Object.assign(new DayflyError('unavailable', `the platform does not answer: ${error.message}`), { cause: error });
  }
  if (answer.status >= 300) throw problem(answer.status, answer.body);
  return answer;
}

function encode(value) {
  if (value instanceof Uint8Array) return value;
  return JSON.stringify(value === undefined ? null : value) ?? 'null';
}

const printable = (value) => String(value).replace(/[^ -~]/g, '?');

async function invoke(ref, event, { signal } = {}) {
  const { headers, body } = await post('/dayfly/v1/invoke/' + encodeURIComponent(ref), encode(event), {}, signal);
  return /^application\/json\b/.test(headers['content-type'] ?? '') ? JSON.parse(body.toString()) : body;
}

async function invokeAsync(ref, event, { idempotencyKey } = {}) {
  const headers = idempotencyKey ? { 'Idempotency-Key': printable(idempotencyKey) } : {};
  const { body } = await post(`/dayfly/v1/invoke/${encodeURIComponent(ref)}?async=true`, encode(event), headers);
  return JSON.parse(body.toString()).id;
}

async function publish(subject, message) {
  await post('/dayfly/v1/publish/' + encodeURIComponent(subject), encode(message));
}

// Config asks the platform when it is first used, and is kept up to date from then on.
class Config {
  #known = null; // a promise of {revision, values}
  #hooks = new Set();
  #life = null; // an AbortController that ends the watch

  async get(key, fallback) {
    const { values } = await this.#ensure();
    return Object.hasOwn(values, key) ? values[key] : fallback;
  }

  async all() { return { ...(await this.#ensure()).values }; }

  async onChange(hook) {
    await this.#ensure();
    const own = (old, values) => hook(old, values);
    this.#hooks.add(own);
    return () => { this.#hooks.delete(own); };
  }

  // forget begins anew: another test plays another platform.
  forget() {
    this.#life?.abort();
    this.#known = this.#life = null;
    this.#hooks.clear();
  }

  #ensure() {
    if (this.#known === null) {
      const life = this.#life = new AbortController();
      const asked = ask(undefined, { signal: life.signal });
      this.#known = asked;
      asked.then((found) => this.#watch(found, life), () => { if (this.#known === asked) this.#known = null; });
    }
    return this.#known;
  }

  async #watch(found, life) {
    while (!life.signal.aborted) {
      try {
        const next = await ask(found.revision, { signal: life.signal, idle: true });
        if (next === null || next.revision === found.revision || life.signal.aborted) continue;
        const old = found;
        found = next;
        this.#known = Promise.resolve(found);
        for (const hook of [...this.#hooks]) await run(hook, { ...old.values }, { ...found.values });
      } catch {
        await new Promise((resolve) => setTimeout(resolve, PAUSE).unref());
      }
    }
  }
}

async function run(hook, old, values) {
  try {
    await hook(old, values);
  } catch (error) {
    log.error('a hook of the configuration failed', { error });
  }
}

// ask resolves to the configuration, or to null when it is still the same.
async function ask(after, options) {
  const query = after === undefined ? '' : '?after=' + encodeURIComponent(after);
  const { status, body } = await platform.request('GET', '/dayfly/v1/config' + query, options);
  if (status === 204) return null;
  if (status !== 200) throw problem(status, body);
  const { revision, values } = JSON.parse(body.toString());
  return { revision, values: values ?? {} };
}

function secret(name) {
  if (!name || name.includes('/') || name.startsWith('.')) throw new RangeError(`secret ${JSON.stringify(name)}: that is no name`);
  try {
    return fs.readFileSync(path.join(platform.local.secrets ?? SECRETS, name), 'utf8');
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  if (process.env[name] !== undefined) return process.env[name];
  throw new RangeError(`secret ${name}: there is none; name it under secrets in dayfly.yaml, and set it with \`dayfly secrets set\``);
}

function context() {
  const given = platform.current();
  if (!given) throw new Error('no invocation runs here; tests use dayfly/testing');
  const deadline = Date.now() + given.getRemainingTimeInMillis();
  return {
    invocationId: given.awsRequestId,
    deadline: new Date(deadline),
    remaining: () => Math.max(0, deadline - Date.now()),
    namespace: process.env.DAYFLY_NAMESPACE ?? '',
    function: given.functionName,
    version: given.functionVersion,
    arn: given.invokedFunctionArn,
    traceId: given.traceId ?? '',
    memoryMiB: Number(given.memoryLimitInMB) || 0,
    outputDir: outputDir(),
  };
}

const traceparent = (event) => event?.headers?.traceparent ?? '';

const outputDir = () => platform.local.context?.outputDir ?? process.env.DAYFLY_OUTPUT_DIR ?? '/mnt/output';

function put(name, data) {
  const root = fs.realpathSync(outputDir());
  const file = path.resolve(root, String(name));
  const leaves = () => new RangeError(`put ${JSON.stringify(name)}: the name leaves the output folder; use a relative path below it`);
  if (!file.startsWith(root + path.sep)) throw leaves();
  fs.mkdirSync(path.dirname(file), { recursive: true });
  if (!(fs.realpathSync(path.dirname(file)) + path.sep).startsWith(root + path.sep)) throw leaves();
  fs.writeFileSync(file, data);
  return file;
}

const LEVELS = { debug: 10, info: 20, warn: 30, error: 40 };

function say(level, msg, fields) {
  const threshold = LEVELS[(process.env.LOG_LEVEL ?? '').toLowerCase()] ?? LEVELS.info;
  if (LEVELS[level] < threshold) return;
  const plain = (_, value) => {
    if (value instanceof Error) return value.stack ?? String(value);
    return typeof value === 'bigint' ? String(value) : value;
  };
  const entry = { time: new Date().toISOString(), level: level.toUpperCase(), msg: String(msg) };
  let line;
  try {
    line = JSON.stringify({ ...entry, ...fields }, plain);
  } catch { // a circle
    line = JSON.stringify({ ...entry, fields: require('node:util').inspect(fields) });
  }
  process.stdout.write(line + '\n');
}

const log = {
  debug: (msg, fields) => say('debug', msg, fields),
  info: (msg, fields) => say('info', msg, fields),
  warn: (msg, fields) => say('warn', msg, fields),
  error: (msg, fields) => say('error', msg, fields),
};

module.exports = { DayflyError, config: new Config(), context, invoke, invokeAsync, log, publish, put, secret, traceparent };
