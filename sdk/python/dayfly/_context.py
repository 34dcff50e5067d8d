"""What the function knows of its invocation, and where it leaves files."""

from __future__ import annotations

import os
import time
from typing import Any, BinaryIO, NamedTuple, Union

from . import _platform


class Context(NamedTuple):
    """An invocation. deadline is when the process is killed, in seconds since 1970."""

    invocation_id: str
    deadline: float
    namespace: str
    function: str
    version: str
    arn: str
    trace_id: str
    memory_mib: int
    output_dir: str

    def remaining(self) -> float:
        """How many seconds are left."""
        return max(0.0, self.deadline - time.time())


def context() -> Context:
    """Returns the invocation that this thread runs. Raises RuntimeError where none does."""
    given = _platform.current()
    if given is None:
        raise RuntimeError("no invocation runs on this thread; tests use dayfly.testing.Platform")
    memory = str(given.memory_limit_in_mb)
    return Context(
        invocation_id=given.aws_request_id,
        deadline=time.time() + given.get_remaining_time_in_millis() / 1000,
        namespace=os.environ.get("DAYFLY_NAMESPACE", ""),
        function=given.function_name,
        version=given.function_version,
        arn=given.invoked_function_arn,
        trace_id=getattr(given, "trace_id", ""),
        memory_mib=int(memory) if memory.isdigit() else 0,
        output_dir=output_dir(),
    )


def output_dir() -> str:
    given = _platform.local.context
    return given.output_dir if given is not None else os.environ.get("DAYFLY_OUTPUT_DIR", "/mnt/output")


def traceparent(event: Any) -> str:
    """Returns the W3C trace context that came with an HTTP request, "" for none."""
    headers = event.get("headers") if isinstance(event, dict) else None
    return headers.get("traceparent", "") if isinstance(headers, dict) else ""


def put(name: str, data: Union[bytes, bytearray, memoryview, str, BinaryIO]) -> str:
    """Leaves data, also that of an open binary file, as a file of the invocation's output.

    name is a relative path and may hold folders. Returns the file's path. Raises ValueError
    for a name that leaves the output folder.
    """
    root = os.path.realpath(output_dir())
    path = os.path.realpath(os.path.join(root, name))
    if not path.startswith(root + os.sep):
        raise ValueError(f"put {name!r}: the name leaves the output folder; use a relative path below it")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        if hasattr(data, "read"):
            import shutil  # slow to load

            shutil.copyfileobj(data, file)  # type: ignore[arg-type, misc]
        else:
            file.write(data.encode() if isinstance(data, str) else data)  # type: ignore[arg-type, union-attr]
    return path
