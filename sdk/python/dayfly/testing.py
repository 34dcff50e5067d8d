"""Runs functions in tests, without Dayfly.

    with dayfly.testing.Platform() as platform:
        platform.handle("price", lambda event: 3)
        assert app.handler({"item": "pear"}, platform.context) == 6
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Callable, Dict, List, Optional
from urllib.parse import parse_qs, unquote, urlsplit

from . import Error, config
from ._platform import local


@dataclass(frozen=True)
class Call:
    """A call that was made of another function."""

    ref: str
    event: Any
    asynchronous: bool
    idempotency_key: str
    invocation: str


@dataclass(frozen=True)
class Message:
    """A message that was published."""

    subject: str
    data: bytes


class TestContext:
    """AWS Lambda's context, of an invocation that is played."""

    __test__ = False  # it is no test itself

    def __init__(self, output_dir: str, timeout: float) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self.function_name = "test"
        self.function_version = "1"
        self.invoked_function_arn = "arn:dayfly:lambda:local:default:function:test:1"
        self.memory_limit_in_mb = "128"
        self.log_group_name = "/dayfly/default/test"
        self.log_stream_name = "test"
        self.identity = None
        self.client_context = None
        self.trace_id = "Root=" + self.aws_request_id
        self.output_dir = output_dir
        self._deadline = time.time() + timeout

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._deadline - time.time()) * 1000))


class Platform:
    """Plays Dayfly for one test at a time, as a context manager. For use by many threads."""

    def __init__(self, timeout: float = 60.0) -> None:
        self.calls: List[Call] = []
        self.published: List[Message] = []
        self._timeout = timeout
        self._functions: Dict[str, Callable[[Any], Any]] = {}
        self._changed = threading.Condition()
        self._config: Dict[str, str] = {}
        self._revision = 0
        self._ended = False

    def __enter__(self) -> "Platform":
        self._dir = tempfile.mkdtemp(prefix="dayfly")
        self.output_dir = os.path.join(self._dir, "output")
        os.mkdir(self.output_dir)
        local.secrets = os.path.join(self._dir, "secrets")
        os.mkdir(local.secrets)
        local.socket = os.path.join(self._dir, "s")
        local.context = self.context = TestContext(self.output_dir, self._timeout)
        platform = self

        class Handler(_Handler):
            played = platform

        self._server = socketserver.ThreadingUnixStreamServer(local.socket, Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        config._forget()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        config._forget()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        local.socket = local.secrets = local.context = None
        shutil.rmtree(self._dir)

    def handle(self, ref: str, function: Callable[[Any], Any]) -> None:
        """Has calls of ref, as callers write it, answered by function. The Error that it
        raises, or whatever else, is what the caller gets."""
        self._functions[ref] = function

    def set_config(self, values: Dict[str, str]) -> None:
        """Makes values the configuration, as `dayfly config set` would."""
        with self._changed:
            self._config, self._revision = dict(values), self._revision + 1
            self._changed.notify_all()

    def set_secret(self, name: str, value: str) -> None:
        """Gives a secret a value."""
        assert local.secrets is not None
        with open(os.path.join(local.secrets, name), "w", encoding="utf-8", newline="") as file:
            file.write(value)

    def output(self, name: str) -> bytes:
        """Returns what dayfly.put left under a name."""
        with open(os.path.join(self.output_dir, name), "rb") as file:
            return file.read()

    def _await_config(self, after: Optional[str]) -> Optional[dict]:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or str(self._revision) != after)
            return None if self._ended else {"revision": str(self._revision), "values": self._config}

    def _call(self, ref: str, body: bytes, asynchronous: bool, headers: Any) -> "tuple[int, Any]":
        self.calls.append(Call(ref, json.loads(body), asynchronous, headers.get("Idempotency-Key", ""), headers.get("Dayfly-Invocation", "")))
        function = self._functions.get(ref)
        if function is None:
            return 404, {"code": "not_found", "detail": f"there is no function {ref}; give the test one with handle"}
        if asynchronous:
            return 202, {"id": str(uuid.uuid4())}
        try:
            return 200, function(json.loads(body))
        except Error as error:
            return 502, {"code": error.code, "detail": error.message, "errorType": error.type, "retryable": error.retryable,
                         "retryAfterMillis": int(error.retry_after * 1000), "trace": error.trace, "logs": error.logs}
        except Exception as error:
            return 502, {"code": "function.error", "detail": str(error), "errorType": type(error).__name__}


class _Handler(BaseHTTPRequestHandler):
    """Serves what Dayfly adds to the Runtime API."""

    played: Platform

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path != "/dayfly/v1/config":
            self._answer(404, {"code": "not_found", "detail": self.path})
            return
        found = self.played._await_config(parse_qs(url.query).get("after", [None])[0])
        self._answer(204 if found is None else 200, found)

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what, name = unquote(url.path)[len("/dayfly/v1/"):].split("/", 1)
        if what == "publish":
            self.played.published.append(Message(name, body))
            self._answer(202, {"status": "OK"})
            return
        self._answer(*self.played._call(name, body, "async=true" in url.query, self.headers))

    def _answer(self, status: int, value: Any) -> None:
        body = b"" if status == 204 else json.dumps(value).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # who asked is gone

    def address_string(self) -> str:
        return "test"

    def log_message(self, format: str, *args: Any) -> None:
        pass
