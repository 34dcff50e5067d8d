"""A log with levels: one JSON object a line, with time, level, msg and fields."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}


def threshold() -> int:
    return LEVELS.get(os.environ.get("LOG_LEVEL", "").lower(), LEVELS["info"])


def line(at: float, level: str, msg: str, fields: dict) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
    return json.dumps({"time": when, "level": level, "msg": msg, **fields}, ensure_ascii=False, default=str)


class Logger:
    """Prints to the standard output. Lines below the level in LOG_LEVEL (debug, info, warn
    or error; info if it says nothing) are left out."""

    def debug(self, msg: str, **fields: Any) -> None:
        self._say("DEBUG", msg, fields)

    def info(self, msg: str, **fields: Any) -> None:
        self._say("INFO", msg, fields)

    def warn(self, msg: str, **fields: Any) -> None:
        self._say("WARN", msg, fields)

    warning = warn

    def error(self, msg: str, **fields: Any) -> None:
        self._say("ERROR", msg, fields)

    def exception(self, msg: str, **fields: Any) -> None:
        """Is error with the exception that is being handled."""
        import traceback

        self._say("ERROR", msg, {**fields, "exception": traceback.format_exc().rstrip()})

    def _say(self, level: str, msg: str, fields: dict) -> None:
        if LEVELS[level.lower()] >= threshold():
            sys.stdout.write(line(time.time(), level, str(msg), fields) + "\n")
            sys.stdout.flush()


class JSONFormatter(logging.Formatter):
    """Has the standard library's loggers print such lines:

    for handler in logging.getLogger().handlers:
        handler.setFormatter(dayfly.JSONFormatter())
    """

    def format(self, record: logging.LogRecord) -> str:
        level = {"WARNING": "WARN", "CRITICAL": "ERROR"}.get(record.levelname, record.levelname)
        fields = {"logger": record.name}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return line(record.created, level, record.getMessage(), fields)
