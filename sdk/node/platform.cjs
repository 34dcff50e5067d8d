// How the function reaches its platform: HTTP on the Runtime API's socket.

'use strict';

const CALLS_AT_ONCE = 16; // which the platform takes of one invocation
const MAX_ANSWER = 100 << 20; // bytes

// local is where tests play the platform. null means what the environment says.
const local = { socket: null, secrets: null, context: null };

// current returns AWS Lambda's context of the invocation in whose course this is called,
// or undefined. The program that runs Node.js functions keeps it.
const current = () => local.context ?? globalThis[Symbol.for('dayfly.current')]?.();

let agent = null; // made when somebody calls: node:http is slow to load

function address() {
  const socketPath = local.socket ?? process.env.DAYFLY_RUNTIME_SOCKET;
  if (socketPath) return { socketPath };
  if (process.env.AWS_LAMBDA_RUNTIME_API) {
    const { hostname, port } = new URL(`http://${process.env.AWS_LAMBDA_RUNTIME_API}`);
    return { hostname, port };
  }
  throw new Error('there is no platform: neither DAYFLY_RUNTIME_SOCKET nor AWS_LAMBDA_RUNTIME_API is set; ' +
    'tests use dayfly/testing');
}

// request resolves to {status, headers, body: Buffer}. With idle it keeps no process alive.
function request(method, path, { body, headers, signal, idle } = {}) {
  return new Promise((resolve, reject) => {
    const http = require('node:http');
    agent ??= new http.Agent();
    const asked = http.request({ ...address(), method, path, headers, signal, agent: idle ? undefined : agent }, (answer) => {
      const parts = [];
      let size = 0;
      answer.on('data', (part) => {
        size += part.length;
        if (size > MAX_ANSWER) answer.destroy(new Error(`the answer is over ${MAX_ANSWER} bytes`));
        parts.push(part);
      });
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(parts) }));
      answer.on('error', reject);
    });
    if (idle) asked.on('socket', (socket) => socket.unref());
    let answered = false;
    asked.on('response', () => { answered = true; });
    asked.on('error', (error) => { if (!answered) reject(error); });
    asked.end(body);
  });
}

const turns = new WeakMap(); // of each invocation: {free, waiting}

// inTurn does work once fewer than CALLS_AT_ONCE of an invocation are under way. They are
// counted for each: a function that calls itself would wait for its own callers.
async function inTurn(context, work) {
  if (context === undefined) return work();
  let turn = turns.get(context);
  if (turn === undefined) turns.set(context, turn = { free: CALLS_AT_ONCE, waiting: [] });
  if (turn.free > 0) turn.free--;
  else await new Promise((resolve) => { turn.waiting.push(resolve); });
  try {
    return await work();
  } finally {
    const next = turn.waiting.shift();
    if (next) next();
    else turn.free++;
  }
}

// call posts in the name of the current invocation.
function call(path, body, headers, signal) {
  const sent = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body), ...headers };
  const context = current();
  if (context?.awsRequestId) sent['Dayfly-Invocation'] = context.awsRequestId;
  return inTurn(context, () => request('POST', path, { body, headers: sent, signal }));
}

module.exports = { local, current, request, call };
