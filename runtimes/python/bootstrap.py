"""Runs a Python function: asks the Runtime API for events, hands them to the
handler, and posts what it returns. Handlers are written as for AWS Lambda.

Standard library only; one connection; one event at a time, unless the function's
concurrency says otherwise: see dayfly_parallel.py.
"""

import sys

BARE = frozenset(sys.modules)  # what Python itself needs

import _socket  # noqa: E402  what socket adds takes longer to load than all else here
import os  # noqa: E402
import select  # noqa: E402
import time  # noqa: E402
import binascii, json, decimal, logging, traceback  # noqa: E401, E402

NEXT = "/2018-06-01/runtime/invocation/next"
INVOCATION = "/2018-06-01/runtime/invocation/"
INIT_ERROR = "/2018-06-01/runtime/init/error"
ASSIGNMENT = "/dayfly/v1/assignment"
JSON_TYPE = ("Content-Type", "application/json")

MAX_MESSAGE = 32 << 10  # characters of an error's message
MAX_FRAMES = 100
MAX_HEAD = 256 << 10  # bytes of a response's status line and headers
MAX_TRAILER = 2 << 10  # bytes of an error's report: the Runtime API's server takes no long trailers
LARGE = 64 << 10  # bytes of a body that is worth a write of its own

GENERATOR = type(_ for _ in ())
HTTP_INTEGRATION = "application/vnd.awslambda.http-integration-response"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"

# What many functions import. They are loaded while no function is known.
PRELOAD = ("datetime", "base64", "urllib.parse", "typing", "random", "uuid", "hashlib", "hmac", "csv", "dayfly")

SDK = "../sdk/python"  # from this file's folder: for functions that have no dayfly of their own


class Api:
    """A minimal HTTP/1.1 client on a connected socket. Not for use by two threads."""

    def __init__(self, connected):
        self.socket = connected
        self.pending = bytearray()

    def request(self, method, path, body=b"", headers=()):
        """Returns (status, headers by lower-case name, body)."""
        self.send(method, path, body, headers)
        return self.answer()

    def send(self, method, path, body=b"", headers=()):
        """Sends a request, whose answer answer reads."""
        self.socket.sendall(head_of(method, path, body, headers) + body)

    def answered(self):
        """Reports whether there is something to read already."""
        return bool(select.select([self.socket], (), (), 0)[0])

    def post(self, path, body, headers, then):
        """Posts body and, in the same write, sends a GET to then, which answer reads:
        one round trip for an event. Nobody asks how the post was answered. A body that
        is a generator, see pieces_of, goes out as it is made."""
        if type(body) is GENERATOR:
            self.socket.sendall(head_of("POST", path, None, headers))
            for piece in body:
                self.socket.sendall(piece)
            self.socket.sendall(head_of("GET", then))
        elif len(body) > LARGE:  # not to be copied
            self.socket.sendall(head_of("POST", path, body, headers))
            self.socket.sendall(body)
            self.socket.sendall(head_of("GET", then))
        else:
            self.socket.sendall(head_of("POST", path, body, headers) + body + head_of("GET", then))
        self.answer()

    def answer(self):
        """Reads the answer to the oldest request that has none, as request returns it."""
        while True:
            status_line, *lines = self._until(b"\r\n\r\n", MAX_HEAD).decode("latin-1").split("\r\n")
            status = int(status_line.split(" ", 2)[1])
            if status >= 200:
                break
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "chunked" in headers.get("transfer-encoding", ""):
            return status, headers, self._chunks()
        return status, headers, self._exactly(int(headers.get("content-length", 0)))

    def _chunks(self):
        body = bytearray()
        while size := int(self._until(b"\r\n", MAX_HEAD).split(b";")[0], 16):
            body += self._exactly(size)
            self._exactly(2)
        while self._until(b"\r\n", MAX_HEAD):
            pass  # trailers
        return bytes(body)

    def _until(self, end, limit):
        start = 0
        while (at := self.pending.find(end, start)) < 0:
            start = max(0, len(self.pending) - len(end))
            if len(self.pending) > limit:
                raise ConnectionError("the Runtime API sent a header without end")
            self._receive()
        found = bytes(self.pending[:at])
        del self.pending[: at + len(end)]
        return found

    def _exactly(self, size):
        if len(self.pending) >= size:
            body = bytes(self.pending[:size])
            del self.pending[:size]
            return body
        body = bytearray(size)
        filled = len(self.pending)
        body[:filled] = self.pending
        self.pending.clear()
        view = memoryview(body)
        while filled < size:
            count = self.socket.recv_into(view[filled:])
            if count == 0:
                raise ConnectionError("the Runtime API closed the connection")
            filled += count
        view.release()
        return body

    def _receive(self):
        data = self.socket.recv(64 << 10)
        if not data:
            raise ConnectionError("the Runtime API closed the connection")
        self.pending += data


def head_of(method, path, body=b"", headers=()):
    length = "Transfer-Encoding: chunked" if body is None else f"Content-Length: {len(body)}"
    lines = [f"{method} {path} HTTP/1.1", "Host: dayfly", length]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


class FunctionError(Exception):
    """A failure of the function that has a name of its own and needs no stack."""

    def __init__(self, kind, message, trace=()):
        super().__init__(message)
        self.kind = kind
        self.trace = list(trace)


class Part:
    """Names with values: the parts of a client context, an identity."""

    def __init__(self, **values):
        self.__dict__.update(values)

    def __repr__(self):
        return f"{type(self).__name__}({self.__dict__})"


class Context:
    """What a handler knows of its invocation, besides the event."""

    def __init__(self, headers):
        env = os.environ
        self.aws_request_id = headers.get("lambda-runtime-aws-request-id", "")
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn", "")
        self.function_name = env.get("AWS_LAMBDA_FUNCTION_NAME", "")
        self.function_version = env.get("AWS_LAMBDA_FUNCTION_VERSION", "")
        self.memory_limit_in_mb = env.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
        self.log_group_name = env.get("AWS_LAMBDA_LOG_GROUP_NAME", "")
        self.log_stream_name = env.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
        self.trace_id = headers.get("lambda-runtime-trace-id", "")
        self.identity = Part(cognito_identity_id=None, cognito_identity_pool_id=None)
        self.client_context = client_context(headers.get("lambda-runtime-client-context"))
        self.output_dir = env.get("DAYFLY_OUTPUT_DIR", "/mnt/output")
        self._deadline = int(headers.get("lambda-runtime-deadline-ms", 0))

    def get_remaining_time_in_millis(self):
        """How long the function may still run."""
        return max(0, self._deadline - int(time.time() * 1000))

    def put(self, name, data):
        """Leaves data (bytes or str) as a file of this invocation's output.

        name is a relative path and may hold folders. Returns the file's path.
        """
        if isinstance(data, str):
            data = data.encode()
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"put {name!r}: data must be bytes or str, not {type(data).__name__}")
        root = os.path.realpath(self.output_dir)
        path = os.path.realpath(os.path.join(root, name))
        if not path.startswith(root + os.sep):
            raise ValueError(f"put {name!r}: the name leaves the output folder; use a relative path below it")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def __repr__(self):
        return f"Context(aws_request_id={self.aws_request_id!r}, function_name={self.function_name!r})"


def client_context(header):
    if not header:
        return None
    try:
        value = json.loads(header)
        return Part(custom=value.get("custom"), env=value.get("env"), client=Part(**(value.get("client") or {})))
    except (ValueError, TypeError, AttributeError):
        return None


def own_frames(tb):
    """Skips the frames of this file, and of the import machinery."""
    while tb is not None and tb.tb_frame.f_code.co_filename in (__file__, "<frozen importlib._bootstrap>"):
        tb = tb.tb_next
    return tb


def report(error, prefix=""):
    """Prints error, so that it is in the log, and returns (type, body) for the API."""
    if isinstance(error, FunctionError):
        kind, message, trace = error.kind, str(error), error.trace
        print(f"[ERROR] {kind}: {message}", flush=True)
    else:
        error.__traceback__ = own_frames(error.__traceback__)
        kind = type(error).__name__
        message = safe_str(error)
        frames = traceback.extract_tb(error.__traceback__)
        trace = traceback.format_list(frames[:MAX_FRAMES])
        if isinstance(error, SyntaxError):  # where it is, and what stands there
            trace += traceback.format_exception_only(error)[:-1]
        if prefix:
            print(f"[ERROR] {prefix}:")
        print("".join(traceback.format_exception(error)), end="", flush=True)
        kind = prefix or kind
    if len(message) > MAX_MESSAGE:
        message = message[:MAX_MESSAGE] + "…"
    body = json.dumps({"errorMessage": message, "errorType": kind, "stackTrace": trace}).encode()
    return kind, body


def safe_str(error):
    try:
        return str(error)
    except Exception as second:  # an exception class of the user's
        return f"(its message cannot be shown: {type(second).__name__})"


def error_report(error, prefix=""):
    """Prints error, and returns the body and headers that report it."""
    kind, body = report(error, prefix)
    return body, (JSON_TYPE, ("Lambda-Runtime-Function-Error-Type", kind))


def decimal_or_fail(value):
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() and abs(value) < 10**18 else float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def encode(result):
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False, default=decimal_or_fail)
        try:
            body = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            body = json.dumps(result, allow_nan=False, default=decimal_or_fail).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FunctionError("Runtime.MarshalError",
                            f"the handler's result ({type(result).__name__}) cannot be written as JSON: {error}") from None
    return body


def decode(body):
    try:
        return json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise FunctionError("Runtime.UnmarshalError", f"the event is not JSON: {error}") from None


def load(handler, root):
    """Imports the module that handler names and returns the function in it."""
    module_path, _, name = handler.replace("/", ".").rpartition(".")
    if not module_path or not name:
        raise FunctionError("Runtime.MalformedHandlerName",
                            f'handler "{handler}" is not of the form module.function, such as app.handler')
    forget_shadowed(root)
    try:
        __import__(module_path)
    except ModuleNotFoundError as error:
        if error.name and (module_path + ".").startswith(error.name + "."):
            raise FunctionError("Runtime.ImportModuleError", missing_module(handler, module_path, root)) from None
        raise
    module = sys.modules[module_path]
    function = getattr(module, name, None)
    if not callable(function):
        raise FunctionError("Runtime.HandlerNotFound", missing_handler(name, module, root))
    return function


def forget_shadowed(root):
    """A function's own modules win over those of the same name that are loaded
    only because this file needed them."""
    try:
        entries = os.listdir(root)
    except OSError:
        return
    own = {entry[:-3] for entry in entries if entry.endswith(".py")}
    own.update(entry for entry in entries if os.path.exists(os.path.join(root, entry, "__init__.py")))
    for name in [name for name in sys.modules if name not in BARE and name.split(".")[0] in own]:
        del sys.modules[name]


def missing_module(handler, module_path, root):
    try:
        files = sorted(entry for entry in os.listdir(root) if entry.endswith(".py"))[:20]
    except OSError:
        files = []
    return (f'handler "{handler}": there is no {module_path.replace(".", "/")}.py in the function\'s folder; '
            + (f"it has: {', '.join(files)}" if files else "it has no Python file"))


def missing_handler(name, module, root):
    file = getattr(module, "__file__", None) or module.__name__
    file = os.path.relpath(file, root) if file.startswith(root) else file
    defined = sorted(key for key, value in vars(module).items() if not key.startswith("_") and callable(value)
                     and getattr(value, "__module__", None) == module.__name__)
    if hasattr(module, name):
        return f'handler "{name}" in {file} is not a function but of type {type(getattr(module, name)).__name__}'
    found = f"it defines: {', '.join(defined[:20])}" if defined else "it defines no function"
    return f'handler "{name}" not found in {file}; {found}'


class Running:
    """The invocation that the process runs, or ran last. The SDK looks here for it."""

    id = ""
    context = None

    def begin(self, context):
        self.id, self.context = context.aws_request_id, context
        if context.trace_id:
            os.environ["_X_AMZN_TRACE_ID"] = context.trace_id


running = Running()


class RequestID:
    """A logging filter that adds the invocation's ID to every record."""

    def filter(self, record):
        record.aws_request_id = running.id
        return True


def setup_logging():
    handler = logging.StreamHandler(sys.stdout)
    formatter = logging.Formatter(
        "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(RequestID())
    logging.getLogger().addHandler(handler)


def enter(root, handler):
    """Makes root the process's folder and returns the function there."""
    sys.path[0] = root  # in place of this file's folder
    sys.argv = [handler]
    os.chdir(root)
    return load(handler, root)


def prepare(api):
    """Waits for the function and makes the process fit for it. Returns the function and
    what serves it."""
    api.send("GET", ASSIGNMENT)
    for step in (*PRELOAD, None):
        if api.answered():  # somebody waits: nothing more in advance
            break
        __import__(step) if step else rehearse()
    status, _, body = api.answer()
    if status != 200:
        raise ConnectionError(f"the Runtime API answered {status} to {ASSIGNMENT}")
    assignment = json.loads(body)
    os.environ.update(assignment.get("env") or {})
    if "TZ" in os.environ:
        time.tzset()
    server, at_once = serve, assignment.get("concurrency", 1)
    if at_once > 1:
        import dayfly_parallel  # while this file's folder is looked in
        server = lambda api, handler: serve_many(dayfly_parallel, at_once, api, handler)
    try:
        return enter(assignment.get("taskRoot") or "/var/task", assignment["handler"]), server
    except ImportError as error:
        api.request("POST", INIT_ERROR, *error_report(error, "Runtime.ImportModuleError"))
    except SyntaxError as error:
        api.request("POST", INIT_ERROR, *error_report(error, "Runtime.UserCodeSyntaxError"))
    except Exception as error:
        api.request("POST", INIT_ERROR, *error_report(error))
    leave(1)


def run(headers, event, handler):
    """Has the handler answer one event. Returns where the answer goes, it and its headers."""
    context = Context(headers)
    running.begin(context)
    path = INVOCATION + context.aws_request_id
    try:
        result = handler(decode(event), context)
        if type(result) is GENERATOR:
            return path + "/response", *stream(result)
        result = encode(result)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # such as asyncio.CancelledError
        return path + "/error", *error_report(error)
    flush()
    return path + "/response", result, (JSON_TYPE,)


def stream(pieces):
    """Begins an answer that the handler yields piece by piece. Returns its body, a
    generator for Api.post, and its headers. An error before the first piece is raised.

    A dict that comes first says the status, headers and cookies of an HTTP response.
    """
    first, kind = next(pieces, b""), "application/octet-stream"
    if isinstance(first, str):
        kind = "text/plain; charset=utf-8"
    elif isinstance(first, dict):
        first, kind = encode(first) + bytes(8), HTTP_INTEGRATION
    headers = (("Content-Type", kind), ("Lambda-Runtime-Function-Response-Mode", "streaming"),
               ("Trailer", f"{ERROR_TYPE}, {ERROR_BODY}"))
    return chunks(as_bytes(first), pieces), headers


def chunks(first, pieces):
    """Yields a chunked body, with a report in its trailers of what goes wrong."""
    trailers = b""
    try:
        if first:
            yield b"%x\r\n%b\r\n" % (len(first), first)
        for piece in pieces:
            piece = as_bytes(piece)
            if piece:
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
    except (SystemExit, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        kind, body = report(error)
        message = json.loads(body)["errorMessage"][: MAX_TRAILER // 12]
        said = json.dumps({"errorMessage": message, "errorType": kind, "stackTrace": []}).encode()
        body = binascii.b2a_base64(said, newline=False).decode()
        trailers = f"{ERROR_TYPE}: {kind[:256]}\r\n{ERROR_BODY}: {body}\r\n".encode("latin-1", "replace")
    flush()
    yield b"0\r\n" + trailers + b"\r\n"


def as_bytes(piece):
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise FunctionError("Runtime.MarshalError", f"the handler yields {type(piece).__name__}; yield str or bytes")


def serve(api, handler):
    status, headers, event = api.request("GET", NEXT)
    while status == 200:
        api.post(*run(headers, event, handler), NEXT)
        headers = event = None  # nothing of it lives on while the next one is awaited
        status, headers, event = api.answer()
    raise ConnectionError(f"the Runtime API answered {status} to {NEXT}")


def rehearse():
    """Does what a cold call will do, before anybody waits for it: what is used for the
    first time is slow."""
    here = sys.path[0]
    os.environ.update({"_HANDLER": ""})
    handler = enter(os.path.join(here, "rehearsal"), "dayfly_rehearsal.handler")
    ours, theirs = _socket.socketpair()
    theirs.sendall(5 * b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
    api = Api(ours)
    _, headers, event = api.request("GET", NEXT)
    for _ in range(2):
        _, body, sent = run(headers, event, handler)
        api.post(NEXT, body, sent, NEXT)
        _, headers, event = api.answer()
    ours.close()
    theirs.close()
    del sys.modules["dayfly_rehearsal"]
    sys.path[0] = here


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the function closed or replaced it


def leave(status):
    """Ends the process now, whatever threads the function left behind."""
    flush()
    os._exit(status)


def serve_many(parallel, at_once, api, handler):
    """Serves on so many threads, this one included, each with a connection of its own."""
    global running
    running = parallel.Running()
    end_lines = parallel.mark_output(running)

    def handle(event, context):
        try:
            return handler(event, context)
        finally:
            end_lines()

    for _ in range(at_once - 1):
        parallel.start(lambda: to_the_end(lambda: serve(Api(connect()), handle)))
    serve(api, handle)


def connect():
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(os.environ["DAYFLY_RUNTIME_SOCKET"])
    return connection


def to_the_end(work):
    """Does work, and ends the process as the handler wishes or when it goes wrong."""
    try:
        work()
    except SystemExit as exit:
        if exit.code is not None and not isinstance(exit.code, int):
            print(exit.code, flush=True)
        leave(exit.code & 0xFF if isinstance(exit.code, int) else int(exit.code is not None))
    except (OSError, KeyError, KeyboardInterrupt) as error:
        print(f"[ERROR] Dayfly's Python runtime gives up: {type(error).__name__}: {error}", flush=True)
        leave(1)


def work():
    sys.path.append(os.path.normpath(os.path.join(sys.path[0], SDK)))
    api = Api(connect())
    handler, server = prepare(api)
    server(api, handler)


def main():
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    setup_logging()
    to_the_end(work)


if __name__ == "__main__":
    main()
