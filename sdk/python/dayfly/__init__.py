"""What a Dayfly function may ask of its platform: its invocation, output files,
configuration, secrets, a log with levels, and other functions.

Standard library only. Handlers written for AWS Lambda need none of it.
"""

from ._calls import Error, invoke, invoke_async, publish
from ._config import Config, secret
from ._context import Context, context, put, traceparent
from ._log import JSONFormatter, Logger

__all__ = [
    "Config", "Context", "Error", "JSONFormatter", "Logger", "config", "context", "invoke", "invoke_async", "log",
    "publish", "put", "secret", "traceparent",
]

config: Config = Config()
"""The function's configuration, as `dayfly config set` made it."""

log: Logger = Logger()
"""Prints JSON lines with levels, as `dayfly logs --level` reads them."""
