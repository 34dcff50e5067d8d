"""The function's configuration and its secrets."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from . import _platform
from ._calls import Error, problem, quote

SECRETS = "/run/secrets"
WAIT = 60.0  # seconds: a little more than the platform holds a question
PAUSE = 1.0  # seconds between two questions when it does not answer

Values = Dict[str, str]
Change = Callable[[Values, Values], None]


class Config:
    """Asks the platform when it is first used, and is kept up to date in the background
    from then on: a change is there within a second. For use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows; never held while it asks
        self._revision: Optional[str] = None
        self._values: Values = {}
        self._hooks: List[Change] = []
        self._life = 0  # of the watch; another one ends it

    def get(self, key: str, default: Optional[str] = None) -> Optional[str]:
        """Returns a value, or default where there is none."""
        self._ensure()
        with self._lock:
            return self._values.get(key, default)

    def all(self) -> Values:
        """Returns all values. The dict is the caller's."""
        self._ensure()
        with self._lock:
            return dict(self._values)

    def on_change(self, hook: Change) -> Callable[[], None]:
        """Has hook(old, new) called after every change, one after the other, on a thread of
        its own. Returns what ends that. What hook raises is printed."""
        self._ensure()
        with self._lock:
            self._hooks.append(hook)

        def stop() -> None:
            with self._lock:
                if hook in self._hooks:
                    self._hooks.remove(hook)

        return stop

    def _ensure(self) -> None:
        with self._lock:
            if self._revision is not None:
                return
        found = ask(None)
        with self._lock:
            if self._revision is None and found is not None:
                self._revision, self._values = found
                self._life += 1
                threading.Thread(target=self._watch, args=(self._life,), name="dayfly-config", daemon=True).start()

    def _watch(self, life: int) -> None:
        while True:
            with self._lock:
                if self._life != life:
                    return
                after = self._revision
            try:
                found = ask(after)
            except (OSError, Error):
                time.sleep(PAUSE)
                continue
            with self._lock:
                if self._life != life:
                    return
                if found is None or found[0] == after:
                    continue
                old, (self._revision, self._values) = self._values, found
                hooks = list(self._hooks)
            for hook in hooks:
                run(hook, dict(old), dict(found[1]))

    def _forget(self) -> None:
        """Begins anew: another test plays another platform."""
        with self._lock:
            self._life += 1
            self._revision, self._values, self._hooks = None, {}, []


def run(hook: Change, old: Values, new: Values) -> None:
    try:
        hook(old, new)
    except Exception:
        import traceback

        traceback.print_exc()


def ask(after: Optional[str]) -> Optional[Tuple[str, Values]]:
    """Returns (revision, values); None when it is still the same."""
    target = "/dayfly/v1/config" + ("?after=" + quote(after) if after is not None else "")
    status, _, body = _platform.request("GET", target, timeout=WAIT)
    if status == 204:
        return None
    if status != 200:
        raise problem(status, body)
    answer = json.loads(body)
    return answer["revision"], answer.get("values") or {}


def secret(name: str) -> str:
    """Returns a secret that the function's manifest names. Its file is read at each call,
    and has a new value within a second after `dayfly secrets set`; where there is no file,
    the environment variable counts, which stays what it was at the instance's start.
    Raises KeyError where there is neither."""
    if not name or "/" in name or name.startswith("."):
        raise KeyError(f"secret {name!r}: that is no name")
    try:
        with open(os.path.join(_platform.local.secrets or SECRETS, name), encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        pass
    if name in os.environ:
        return os.environ[name]
    raise KeyError(f"secret {name}: there is none; name it under secrets in dayfly.yaml, and set it with `dayfly secrets set`")
