// A minimal HTTP/1.1 client for the Runtime API. Node.js's own costs a call several
// times as much, most of it before the code is hot, which in an instance it seldom is.

import net from 'node:net';

const READ_BYTES = 64 << 10;
const MAX_HEAD = 256 << 10; // bytes of a response's status line and headers
const HEAD_END = '\r\n\r\n';
const LINE_END = '\r\n';

// Connection is one connection to a unix socket. Requests may be sent before earlier
// ones are answered; the answers come in the same order.
export class Connection {
  #socket;
  #waiting = []; // for each request without an answer: {resolve, reject}, or null when nobody asks
  #closed = null;

  // An answer being read: first a line that ends in #lineEnd, then #body, and so on.
  #lineEnd = HEAD_END;
  #line = null; // the beginning of a line, or null
  #answer = null;
  #body = null; // what is being filled, or null while a line is read
  #filled = 0;
  #chunks = null; // of a chunked body, or null

  constructor(socketPath) {
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES); // one for all reads
    const callback = (size) => this.#read(buffer.subarray(0, size));
    this.#socket = net.connect({ path: socketPath, onread: { buffer, callback } });
    this.#socket.on('error', (error) => this.#close(error));
    this.#socket.on('close', () => this.#close(new Error('the Runtime API closed the connection')));
  }

  // request resolves to an Answer.
  request(method, target, body = '', headers = '') {
    return this.#send(format(method, target, body, headers));
  }

  // post sends a body and, in the same write, a GET. It resolves to the Answer to the
  // GET: nobody asks for the other one.
  post(target, body, headers, next) {
    this.#waiting.push(null);
    return this.#send(format('POST', target, body, headers) + format('GET', next));
  }

  // beginPost sends the head of a POST whose body is sent by writeChunk and ended by
  // endPost. It resolves to the Answer.
  beginPost(target, headers) {
    const answered = this.#send(`POST ${target} HTTP/1.1\r\nHost: dayfly\r\nTransfer-Encoding: chunked\r\n${headers}\r\n`);
    answered.catch(() => {}); // who sends the chunks hears of it, too
    return answered;
  }

  // writeChunk calls callback when there is room for more.
  writeChunk(chunk, callback) {
    if (chunk.length === 0) {
      callback?.(this.#closed);
      return;
    }
    this.#socket.cork();
    this.#socket.write(chunk.length.toString(16) + LINE_END);
    this.#socket.write(chunk);
    this.#socket.write(LINE_END, callback);
    this.#socket.uncork();
  }

  // endPost ends the body and, in the same write, sends a GET if there is a next. It
  // resolves to the Answer to that.
  endPost(trailers, next) {
    const end = `0\r\n${trailers}\r\n`;
    if (next !== undefined) return this.#send(end + format('GET', next));
    this.#socket.write(end);
    return Promise.resolve();
  }

  close() { this.#socket.destroy(); }

  #send(text) {
    if (this.#closed) return Promise.reject(this.#closed);
    this.#socket.ref();
    this.#socket.write(text);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #close(error) {
    this.#closed ??= error;
    for (const waiting of this.#waiting.splice(0)) waiting?.reject(this.#closed);
  }

  // #read takes what came in; the next read overwrites it.
  #read(data) {
    try {
      while (data.length > 0) data = this.#body === null ? this.#readLine(data) : this.#readBody(data);
    } catch (error) {
      this.#socket.destroy(error);
    }
    return true;
  }

  // #readLine and #readBody return what follows.
  #readLine(data) {
    if (this.#line !== null) data = Buffer.concat([this.#line, data]);
    const end = data.indexOf(this.#lineEnd, 0, 'latin1');
    if (end < 0) {
      if (data.length > MAX_HEAD) throw new Error('the Runtime API sent a header without end');
      this.#line = Buffer.from(data);
      return data.subarray(data.length);
    }
    this.#line = null;
    const rest = data.subarray(end + this.#lineEnd.length);
    this.#lineCame(data.latin1Slice(0, end));
    return rest;
  }

  #readBody(data) {
    const size = Math.min(data.length, this.#body.length - this.#filled);
    data.copy(this.#body, this.#filled, 0, size);
    this.#filled += size;
    if (this.#filled === this.#body.length) this.#bodyCame();
    return data.subarray(size);
  }

  #lineCame(line) {
    if (this.#lineEnd === HEAD_END) {
      if (/^HTTP\/1\.1 1/.test(line)) return; // the answer itself follows
      this.#answer = new Answer(line);
      if (this.#answer.header('transfer-encoding').includes('chunked')) {
        this.#chunks = [];
        this.#lineEnd = LINE_END;
      } else {
        this.#expect(Number(this.#answer.header('content-length')));
      }
    } else if (this.#chunks.ended) {
      if (line === '') this.#answered(Buffer.concat(this.#chunks)); // else it is a trailer
    } else {
      const size = parseInt(line, 16);
      if (size > 0) this.#expect(size + LINE_END.length);
      else this.#chunks.ended = true;
    }
  }

  #expect(size) {
    this.#body = Buffer.allocUnsafe(size);
    this.#filled = 0;
    if (size === 0) this.#bodyCame();
  }

  #bodyCame() {
    const body = this.#body;
    this.#body = null;
    if (this.#chunks === null) this.#answered(body);
    else this.#chunks.push(body.subarray(0, body.length - LINE_END.length));
  }

  #answered(body) {
    const answer = this.#answer;
    answer.body = body;
    this.#lineEnd = HEAD_END;
    this.#chunks = null;
    const waiting = this.#waiting.shift();
    if (waiting === undefined) throw new Error('the Runtime API answered what it was not asked');
    // A connection on which nothing is due keeps no process alive: see settle.
    if (this.#waiting.length === 0) this.#socket.unref();
    waiting?.resolve(answer);
  }
}

// Answer is what the Runtime API said to one request.
class Answer {
  #head;
  #lower;
  body = null; // a Buffer

  constructor(head) {
    this.#head = head;
    this.#lower = head.toLowerCase();
  }

  get status() { return Number(this.#head.slice(9, 12)); }

  // header returns the value of a header, '' when it is not there; name is lower case.
  header(name) {
    const at = this.#lower.indexOf(`\n${name}:`);
    if (at < 0) return '';
    const end = this.#head.indexOf('\r', at);
    return this.#head.slice(at + name.length + 2, end < 0 ? undefined : end).trim();
  }
}

// format makes a request of a body, a string, and headers, each with its line's end.
function format(method, target, body = '', headers = '') {
  const length = method === 'GET' ? '' : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
  return `${method} ${target} HTTP/1.1\r\nHost: dayfly\r\n${length}${headers}\r\n${body}`;
}
