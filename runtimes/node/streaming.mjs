// What a handler needs to send its answer while it makes it, as on AWS Lambda:
// awslambda.streamifyResponse and awslambda.HttpResponseStream.

import { Writable } from 'node:stream';

const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
const HTTP_INTEGRATION = 'application/vnd.awslambda.http-integration-response';
const TRAILERS = ['Lambda-Runtime-Function-Error-Type', 'Lambda-Runtime-Function-Error-Body'];
const MAX_TRAILER = 2 << 10; // bytes of an error's report: the Runtime API's server takes no long trailers

// ResponseStream is what the handler writes to. The first write, or the end, opens it.
export class ResponseStream extends Writable {
  #api;
  #target;
  #type = 'application/octet-stream';
  #posted = null; // resolves when the Runtime API has taken all of it

  constructor(api, target) {
    super({ decodeStrings: true, highWaterMark: 64 << 10 });
    this.#api = api;
    this.#target = target;
  }

  prelude = null; // what goes before the first write

  get opened() { return this.#posted !== null; }

  setContentType(type) { this.#type = type; }

  _write(chunk, encoding, callback) {
    this.#open();
    this.#api.writeChunk(chunk, callback);
  }

  _final(callback) {
    this.#open();
    callback();
  }

  #open() {
    if (this.opened) return;
    this.#posted = this.#api.beginPost(this.#target, `Content-Type: ${this.#type.replace(/[^ -~]/g, '?')}\r\n` +
      `Lambda-Runtime-Function-Response-Mode: streaming\r\nTrailer: ${TRAILERS.join(', ')}\r\n`);
    if (this.prelude !== null) this.#api.writeChunk(Buffer.concat([Buffer.from(this.prelude), Buffer.alloc(8)]));
  }

  // done resolves once the handler has ended the stream.
  done() {
    return new Promise((resolve, reject) => {
      if (this.writableFinished || this.destroyed) resolve();
      else this.once('finish', resolve).once('error', reject).once('close', resolve);
    });
  }

  // close ends the answer, with a report of what went wrong if there is one. With next
  // it asks for what is next in the same write, and resolves to that.
  async close(next, report) {
    this.on('error', () => {}); // of writes after this
    if (!this.writableEnded && !this.destroyed) this.end();
    await this.done().catch(() => {}); // what was written goes first
    let trailers = '';
    if (report !== undefined) {
      const said = { ...report, errorMessage: report.errorMessage.slice(0, MAX_TRAILER / 4), stackTrace: [] };
      const values = [report.errorType.replace(/[^ -~]/g, '?').slice(0, 256), Buffer.from(JSON.stringify(said)).toString('base64')];
      trailers = TRAILERS.map((name, n) => `${name}: ${values[n]}\r\n`).join('');
    }
    const following = this.#api.endPost(trailers, next);
    return next === undefined ? this.#posted : following;
  }
}

// streams reports whether a handler sends its answer while it makes it.
export const streams = (handler) => handler[STREAMING] === 'response';

globalThis.awslambda = {
  // streamifyResponse marks a handler (event, responseStream, context).
  streamifyResponse(handler) {
    handler[STREAMING] = 'response';
    return handler;
  },
  HttpResponseStream: {
    // from has the answer begin with its status, headers and cookies.
    from(stream, metadata) {
      stream.setContentType(HTTP_INTEGRATION);
      stream.prelude = JSON.stringify(metadata);
      return stream;
    },
  },
};
