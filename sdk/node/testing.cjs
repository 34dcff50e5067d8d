// Runs functions in tests, without Dayfly: it plays the platform on a unix socket.

'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');

const { DayflyError, config } = require('./index.cjs');
const { local } = require('./platform.cjs');

class Platform {
  calls = [];
  published = [];
  #functions = new Map();
  #config = {};
  #revision = 0;
  #waiting = new Set();
  #dir = fs.mkdtempSync(path.join(os.tmpdir(), 'dayfly-'));
  #server = http.createServer((asked, answer) => {
    this.#serve(asked, answer).catch((error) => send(answer, 500, { code: 'internal', detail: error.message }));
  });

  static async start({ timeout = 60_000 } = {}) {
    const platform = new Platform();
    await platform.#start(timeout);
    return platform;
  }

  async #start(timeout) {
    this.outputDir = path.join(this.#dir, 'output');
    local.secrets = path.join(this.#dir, 'secrets');
    for (const dir of [this.outputDir, local.secrets]) fs.mkdirSync(dir);
    local.socket = path.join(this.#dir, 's');
    const awsRequestId = crypto.randomUUID();
    const deadline = Date.now() + timeout;
    local.context = this.context = {
      callbackWaitsForEmptyEventLoop: true, awsRequestId, functionName: 'test', functionVersion: '1', memoryLimitInMB: '128',
      invokedFunctionArn: 'arn:dayfly:lambda:local:default:function:test:1', logGroupName: '/dayfly/default/test', logStreamName: 'test',
      traceId: `Root=${awsRequestId}`, outputDir: this.outputDir,
      getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
    };
    config.forget();
    await new Promise((resolve, reject) => this.#server.once('error', reject).listen(local.socket, resolve));
  }

  async stop() {
    config.forget();
    for (const wake of this.#waiting) wake();
    this.#server.closeAllConnections?.();
    await new Promise((resolve) => this.#server.close(resolve));
    local.socket = local.secrets = local.context = null;
    fs.rmSync(this.#dir, { recursive: true });
  }

  handle(ref, fn) { this.#functions.set(ref, fn); }

  setConfig(values) {
    this.#config = { ...values };
    this.#revision++;
    for (const wake of this.#waiting) wake();
  }

  setSecret(name, value) { fs.writeFileSync(path.join(local.secrets, name), value); }

  output(name) { return fs.readFileSync(path.join(this.outputDir, name)); }

  async #serve(asked, answer) {
    const url = new URL(asked.url, 'http://dayfly');
    if (asked.method === 'GET' && url.pathname === '/dayfly/v1/config') return this.#tellConfig(url, answer);
    const [, what, name] = /^\/dayfly\/v1\/(invoke|publish)\/(.+)$/.exec(decodeURIComponent(url.pathname)) ?? [];
    if (what === undefined) return send(answer, 404, { code: 'not_found', detail: asked.url });
    const parts = [];
    for await (const part of asked) parts.push(part);
    const body = Buffer.concat(parts);
    if (what === 'publish') {
      this.published.push({ subject: name, data: body });
      return send(answer, 202, { status: 'OK' });
    }
    return this.#call(name, JSON.parse(body.toString()), url.searchParams.get('async') === 'true', asked.headers, answer);
  }

  async #call(ref, event, async, headers, answer) {
    this.calls.push({
      ref, event, async, idempotencyKey: headers['idempotency-key'] ?? '', invocation: headers['dayfly-invocation'] ?? '',
    });
    const fn = this.#functions.get(ref);
    if (fn === undefined) {
      return send(answer, 404, { code: 'not_found', detail: `there is no function ${ref}; give the test one with handle` });
    }
    if (async) return send(answer, 202, { id: crypto.randomUUID() });
    try {
      return send(answer, 200, (await fn(event)) ?? null);
    } catch (error) {
      if (!(error instanceof DayflyError)) {
        return send(answer, 502, { code: 'function.error', detail: String(error?.message ?? error), errorType: error?.name });
      }
      const { code, message, type, retryable, retryAfter, trace, logs } = error;
      return send(answer, 502, { code, detail: message, errorType: type, retryable, retryAfterMillis: retryAfter, trace, logs });
    }
  }

  async #tellConfig(url, answer) {
    if (url.searchParams.get('after') === String(this.#revision)) {
      await new Promise((resolve) => {
        this.#waiting.add(resolve);
        answer.on('close', resolve);
      }).finally(() => this.#waiting.clear());
    }
    send(answer, 200, { revision: String(this.#revision), values: this.#config });
  }
}

function send(answer, status, value) {
  if (answer.destroyed) return;
  answer.writeHead(status, { 'Content-Type': 'application/json' });
  answer.end(JSON.stringify(value));
}

module.exports = { Platform };
