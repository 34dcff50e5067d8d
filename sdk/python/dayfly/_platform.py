"""How the function reaches its platform: HTTP on the Runtime API's socket."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Mapping, Optional, Tuple

if TYPE_CHECKING:  # it is slow to load, and not every function calls
    import socket

MAX_ANSWER = 100 << 20  # bytes
MAX_HEAD = 64 << 10  # bytes of an answer's status line and headers
CALLS_AT_ONCE = 16  # which the platform takes of one invocation


class Local:
    """Where tests play the platform. None means what the environment says."""

    socket: Optional[str] = None
    secrets: Optional[str] = None
    context: Any = None


local = Local()


def current() -> Any:
    """Returns AWS Lambda's context of the invocation that this thread runs, or None.
    The program that runs Python functions keeps it."""
    if local.context is not None:
        return local.context
    running = getattr(sys.modules.get("__main__"), "running", None)
    return getattr(running, "context", None)


def connect(timeout: Optional[float]) -> socket.socket:
    import socket

    path = local.socket or os.environ.get("DAYFLY_RUNTIME_SOCKET")
    if path:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return connection
    address = os.environ.get("AWS_LAMBDA_RUNTIME_API")
    if not address:
        raise ConnectionError("there is no platform: neither DAYFLY_RUNTIME_SOCKET nor AWS_LAMBDA_RUNTIME_API is set; "
                              "tests use dayfly.testing.Platform")
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout)


def request(method: str, target: str, body: bytes = b"", headers: Optional[Mapping[str, str]] = None,
            timeout: Optional[float] = None) -> Tuple[int, Mapping[str, str], bytes]:
    """Returns (status, headers by lower-case name, body). One connection for each request:
    it is a local one. HTTP/1.0 spares us chunks."""
    lines = [f"{method} {target} HTTP/1.0", "Host: dayfly", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {one_line(value)}" for name, value in (headers or {}).items()]
    with connect(timeout) as connection:
        try:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))
            connection.sendall(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before all of it was sent: the answer says why
        return receive(connection)


def call(target: str, body: bytes, headers: Mapping[str, str], timeout: Optional[float]) -> Tuple[int, Mapping[str, str], bytes]:
    """Posts in the name of the current invocation."""
    sent = {"Content-Type": "application/json", **headers}
    given = current()
    if given is None:
        return request("POST", target, body, sent, timeout)
    sent["Dayfly-Invocation"] = given.aws_request_id
    # Of one invocation: a function that calls itself would wait for its own callers.
    with given.__dict__.setdefault("_dayfly_calls", threading.BoundedSemaphore(CALLS_AT_ONCE)):
        return request("POST", target, body, sent, timeout)


def one_line(value: str) -> str:
    return "".join(char if char >= " " else "?" for char in value)


def receive(connection: socket.socket) -> Tuple[int, Mapping[str, str], bytes]:
    with connection.makefile("rb") as answer:
        status_line = answer.readline(MAX_HEAD).decode("latin-1").split(" ", 2)
        if len(status_line) < 2 or not status_line[1].isdigit():
            raise ConnectionError("the platform closed the connection without an answer")
        headers = {}
        for _ in range(1000):
            line = answer.readline(MAX_HEAD).decode("latin-1").strip()
            if not line:
                break
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = answer.read(MAX_ANSWER)
    if len(body) < int(headers.get("content-length", 0)):
        raise ConnectionError("the answer broke off")
    return int(status_line[1]), headers, body
