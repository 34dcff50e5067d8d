"""Calls of other functions, and messages."""

from __future__ import annotations

import json
from typing import Any, List, Optional, Union

from . import _platform


class Error(Exception):
    """Why a call failed.

    code is stable: function.error and other function.* are failures of the function that
    was called, any other is a failure of the call. type, trace and logs are the called
    function's own. retryable says that nothing ran, so that the same call may be made
    again, after retry_after seconds.
    """

    def __init__(self, code: str, message: str, *, type: str = "", trace: Optional[List[str]] = None, logs: str = "",
                 invocation: str = "", retryable: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.type = type
        self.trace = trace or []
        self.logs = logs
        self.invocation = invocation
        self.retryable = retryable
        self.retry_after = retry_after


def invoke(ref: str, event: Any = None, *, timeout: Optional[float] = None) -> Any:
    """Calls another function and returns its result.

    ref is name[.namespace][:version-or-alias]; one without a namespace means the caller's
    own. event is sent as JSON, bytes as they are, and may have 6 MiB. It waits no longer
    than the handler's own time, or timeout seconds. Raises Error. Functions that call each
    other in circles are stopped after 16 steps.
    """
    body = _post("/dayfly/v1/invoke/" + quote(ref), encode(event), {}, timeout)
    try:
        return json.loads(body)
    except ValueError:
        return body  # it streamed something else


def invoke_async(ref: str, event: Any = None, *, idempotency_key: str = "") -> str:
    """Has another function called later, and returns the invocation's ID. Then the event
    is on disk and will be run, with retries. A repeat with the same key is the same event
    for a day. event may have 100 MiB."""
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return json.loads(_post("/dayfly/v1/invoke/" + quote(ref) + "?async=true", encode(event), headers, None))["id"]


def publish(subject: str, message: Any) -> None:
    """Sends a message, as JSON or bytes as they are, to all who listen to a NATS subject.
    Where a stream keeps the subject, as where a queue trigger wants it, the message is on
    disk then. It may have 1 MiB by default."""
    _post("/dayfly/v1/publish/" + quote(subject), encode(message), {}, None)


def encode(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value, allow_nan=False).encode()


SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:")


def quote(text: str) -> str:
    return "".join(chr(byte) if byte in SAFE else f"%{byte:02X}" for byte in text.encode())


def _post(target: str, body: bytes, headers: dict, timeout: Optional[float]) -> bytes:
    try:
        status, _, answer = _platform.call(target, body, headers, timeout)
    except OSError as error:
        raise Error("unavailable", f"the platform does not answer: {error}") from error
    if status >= 300:
        raise problem(status, answer)
    return answer


def problem(status: int, body: Union[bytes, bytearray]) -> Error:
    """Reads a problem document."""
    try:
        p = json.loads(body)
        return Error(p["code"], p.get("detail") or p.get("title", ""), type=p.get("errorType", ""), trace=p.get("trace"),
                     logs=p.get("logs", ""), invocation=p.get("invocation", ""), retryable=p.get("retryable", False),
                     retry_after=p.get("retryAfterMillis", 0) / 1000)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Error("internal", f"the platform answered {status}: {bytes(body[:200])!r}")
