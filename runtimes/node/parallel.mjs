// What bootstrap.mjs needs besides to run several events at once: it knows for which
// invocation something is printed, and marks each line with that.

import { AsyncLocalStorage } from 'node:async_hooks';

const running = new AsyncLocalStorage(); // {mark, rests: Map of stream to the beginning of a line}

// current returns the invocation in whose course this is called, as within was told, or
// undefined.
export const current = () => running.getStore()?.invocation;

// markOutput marks what is printed from now on. What is not a whole line waits for its
// rest, as other invocations' lines come between.
export function markOutput() {
  for (const stream of [process.stdout, process.stderr]) {
    const write = stream.write.bind(stream);
    stream.write = (chunk, encoding, callback) => {
      const store = running.getStore();
      if (store === undefined) return write(chunk, encoding, callback);
      if (typeof encoding === 'function') [encoding, callback] = [undefined, encoding];
      const text = (store.rests.get(stream) ?? '') + (typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString());
      const end = text.lastIndexOf('\n');
      store.rests.set(stream, text.slice(end + 1));
      if (end >= 0) return write(store.mark + text.slice(0, end).replaceAll('\n', '\n' + store.mark) + '\n', callback);
      if (callback) process.nextTick(callback);
      return true;
    };
  }
}

// within runs work in the course of an invocation, and ends its lines.
export function within(invocation, id, work) {
  const store = { invocation, mark: `\x1e${id}\x1f`, rests: new Map() };
  return running.run(store, async () => {
    try {
      return await work();
    } finally {
      for (const [stream, rest] of store.rests) if (rest !== '') stream.write('\n');
    }
  });
}
