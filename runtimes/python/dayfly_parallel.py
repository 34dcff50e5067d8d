"""What bootstrap.py needs besides to run several events at once: each on a thread of
its own, and each line that is printed marked with the invocation that printed it."""

import io
import logging
import sys
import threading


class Running(threading.local):
    """The invocation that the thread runs. Threads that a handler starts run none."""

    id = ""
    context = None

    def begin(self, context):
        self.id, self.context = context.aws_request_id, context


class Marked(io.TextIOBase):
    """A text stream that marks each line. What is not a whole line waits for its rest,
    as other invocations' lines come between."""

    def __init__(self, stream, lock, running):
        self.stream = stream
        self.lock = lock
        self.running = running
        self.rests = threading.local()

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        mark = self.running.id
        if mark:
            whole, end, rest = (getattr(self.rests, "text", "") + text).rpartition("\n")
            self.rests.text = rest
            if not end:
                return len(text)
            mark = f"\x1e{mark}\x1f"
            shown = mark + whole.replace("\n", "\n" + mark) + "\n"
        else:
            shown = text
        with self.lock:
            self.stream.write(shown)
            self.stream.flush()
        return len(text)

    def end_line(self):
        if getattr(self.rests, "text", ""):
            self.write("\n")

    def flush(self):
        with self.lock:
            self.stream.flush()

    def writable(self):
        return True

    def __getattr__(self, name):  # buffer, encoding, fileno and so on
        return getattr(self.stream, name)


def mark_output(running):
    """Marks what is printed and logged from now on. Returns what ends a thread's lines."""
    lock = threading.Lock()
    marked = sys.stdout, sys.stderr = Marked(sys.stdout, lock, running), Marked(sys.stderr, lock, running)
    for handler in logging.getLogger().handlers:
        handler.setStream(sys.stdout)

    def end_lines():
        for stream in marked:
            stream.end_line()

    return end_lines


def start(work):
    """Starts a thread that does not keep the process alive."""
    threading.Thread(target=work, daemon=True).start()
