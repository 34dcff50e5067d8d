import assert from 'node:assert/strict';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import test from 'node:test';

import dayfly, { DayflyError, config, context, invoke, invokeAsync, log, publish, put, secret, traceparent } from '../index.mjs';
import { Platform } from '../testing.mjs';

const require = createRequire(import.meta.url);

// on runs a test against a platform of its own.
const on = (name, work) => test(name, async (t) => {
  const platform = await Platform.start();
  t.after(() => platform.stop());
  await work(platform);
});

on('calls another function', async (platform) => {
  platform.handle('price.shop:live', (event) => 3 * event.count);
  assert.equal(await invoke('price.shop:live', { count: 2 }), 6);
  assert.equal(await invoke('price.shop:live', Buffer.from('{"count":3}')), 9);
  assert.deepEqual(platform.calls[0], {
    ref: 'price.shop:live', event: { count: 2 }, async: false, idempotencyKey: '', invocation: platform.context.awsRequestId,
  });
  platform.handle('echo', (event) => event);
  for (const value of [null, 'grüß 😀', [1, 2.5, { a: null }], 'x'.repeat(2 << 20)]) assert.deepEqual(await invoke('echo', value), value);
  assert.equal(await invoke('echo'), null);
});

on('tells why a call failed', async (platform) => {
  platform.handle('full', () => { throw new DayflyError('no_capacity', 'full', { retryable: true, retryAfter: 1500 }); });
  platform.handle('bad', () => { throw new TypeError('no'); });
  platform.handle('never', () => new Promise(() => {}));
  await assert.rejects(invoke('full'), { name: 'DayflyError', code: 'no_capacity', message: 'full', retryable: true, retryAfter: 1500 });
  await assert.rejects(invoke('bad'), { code: 'function.error', type: 'TypeError', message: 'no', retryable: false });
  await assert.rejects(invoke('nobody'), { code: 'not_found' });
  const enough = new AbortController();
  const asked = invoke('never', 1, { signal: enough.signal });
  enough.abort(new Error('enough'));
  await assert.rejects(asked, { message: 'enough' });
});

on('calls later, and publishes', async (platform) => {
  platform.handle('mail', () => assert.fail('it is not run'));
  assert.match(await invokeAsync('mail', [1], { idempotencyKey: 'order-7\r\nX: y' }), /^[0-9a-f-]{36}$/);
  assert.equal(platform.calls[0].idempotencyKey, 'order-7??X: y');
  assert.equal(platform.calls[0].async, true);
  await publish('orders.created', { item: 'pear' });
  await publish('raw', Buffer.from('as it is'));
  assert.deepEqual(platform.published.map(({ subject, data }) => [subject, data.toString()]),
    [['orders.created', '{"item":"pear"}'], ['raw', 'as it is']]);
});

on('makes many calls at once', async (platform) => {
  let waiting = 0, release;
  const all = new Promise((resolve) => { release = resolve; });
  platform.handle('slow', async (n) => {
    if (++waiting === 8) release();
    await all;
    return n;
  });
  assert.deepEqual(await Promise.all([...Array(8).keys()].map((n) => invoke('slow', n))), [...Array(8).keys()]);
  let most = 0, now = 0;
  platform.handle('counted', async (n) => {
    most = Math.max(most, ++now);
    await new Promise((resolve) => setImmediate(resolve));
    now--;
    return n;
  });
  assert.deepEqual(await Promise.all([...Array(50).keys()].map((n) => invoke('counted', n))), [...Array(50).keys()]);
  assert.ok(most <= 16, `${most} at once`);
});

on('knows the configuration and its changes', async (platform) => {
  platform.setConfig({ greeting: 'Hello' });
  assert.equal(await config.get('greeting'), 'Hello');
  assert.equal(await config.get('other', '?'), '?');
  assert.equal(await config.get('toString'), undefined);
  (await config.all()).greeting = 'mine';
  const changes = [];
  let heard = () => {};
  const stop = await config.onChange((old, values) => { changes.push([old.greeting, values.greeting]); heard(); });
  for (const greeting of ['Hi', 'Hey']) {
    const changed = new Promise((resolve) => { heard = resolve; });
    platform.setConfig({ greeting });
    await changed;
    assert.equal(await config.get('greeting'), greeting);
  }
  assert.deepEqual(changes, [['Hello', 'Hi'], ['Hi', 'Hey']]);
  stop();
});

on('reads secrets', async (platform) => {
  process.env.API_TOKEN = 'of the environment';
  try {
    assert.equal(secret('API_TOKEN'), 'of the environment');
    for (const value of ['of the file\r\n', 'another']) {
      platform.setSecret('API_TOKEN', value);
      assert.equal(secret('API_TOKEN'), value);
    }
  } finally {
    delete process.env.API_TOKEN;
  }
  for (const name of ['MISSING', '', '../x', '.x']) assert.throws(() => secret(name), RangeError);
});

on('knows its invocation', async (platform) => {
  const got = context();
  assert.deepEqual([got.invocationId, got.function, got.version, got.memoryMiB, got.traceId],
    [platform.context.awsRequestId, 'test', '1', 128, `Root=${platform.context.awsRequestId}`]);
  assert.ok(got.remaining() > 0 && got.remaining() <= 60_000);
  assert.equal(traceparent({ headers: { traceparent: '00-1-2-01' } }), '00-1-2-01');
  for (const event of [undefined, null, 7, {}, { headers: {} }]) assert.equal(traceparent(event), '');
});

on('leaves output files', async (platform) => {
  put('a/b.txt', 'grüß');
  put('c.bin', new Uint8Array([0, 1]));
  assert.equal(platform.output('a/b.txt').toString(), 'grüß');
  assert.deepEqual([...platform.output('c.bin')], [0, 1]);
  fs.symlinkSync('/', `${platform.outputDir}/link`);
  for (const name of ['', '.', '../x', '/etc/x', 'a/../../x', 'link/tmp/x']) assert.throws(() => put(name, 'x'), RangeError);
});

test('says that there is no platform', async () => {
  await assert.rejects(publish('x', 1), { code: 'unavailable', message: /dayfly\/testing/ });
  assert.throws(() => context(), /dayfly\/testing/);
});

test('logs with levels', (t) => {
  const printed = [];
  const write = process.stdout.write;
  t.after(() => { delete process.env.LOG_LEVEL; });
  for (const [level, want] of [['', 'INFO WARN ERROR'], ['debug', 'DEBUG INFO WARN ERROR'], ['ERROR', 'ERROR'], ['loud', 'INFO WARN ERROR']]) {
    process.env.LOG_LEVEL = level;
    printed.length = 0;
    process.stdout.write = (line) => printed.push(line);
    try {
      const circle = {};
      circle.circle = circle;
      log.debug('d');
      log.info('i', { count: 3, n: 1n });
      log.warn('w', circle);
      log.error('e', { error: new TypeError('no') });
    } finally {
      process.stdout.write = write;
    }
    const entries = printed.map((line) => JSON.parse(line));
    assert.equal(entries.map((entry) => entry.level).join(' '), want);
    assert.match(entries.at(-1).error, /TypeError: no/);
    const info = entries.find((entry) => entry.level === 'INFO');
    if (info) assert.deepEqual([info.msg, info.count, info.n, Number.isNaN(Date.parse(info.time))], ['i', 3, '1', false]);
  }
});

test('has a type for all that it exports, and nothing else', () => {
  const types = fs.readFileSync(new URL('../index.d.ts', import.meta.url), 'utf8');
  const typed = [...types.matchAll(/^export (?:class|const|function) (\w+)/gm)].map(([, name]) => name).sort();
  assert.deepEqual(typed, Object.keys(dayfly).sort());
  assert.deepEqual(Object.keys(require('../index.cjs')).sort(), typed);
});

test('runs the examples of its README', async () => {
  const text = fs.readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const blocks = [...text.matchAll(/```js\n([\s\S]*?)```/g)].map(([, block]) => block);
  assert.ok(blocks.length >= 2);
  const self = (name) => JSON.stringify(new URL(name, import.meta.url).href);
  const source = blocks.join('\n').replaceAll("'dayfly/testing'", self('../testing.mjs')).replaceAll("'dayfly'", self('../index.mjs'));
  const { example } = await import('data:text/javascript,' + encodeURIComponent(source));
  await example();
});
