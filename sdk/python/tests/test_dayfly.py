import contextlib
import io
import json
import logging
import os
import queue
import threading
import unittest
from unittest import mock

import dayfly
from dayfly.testing import Message, Platform

PATIENCE = 60  # seconds


class WithPlatform(unittest.TestCase):
    def setUp(self):
        self.platform = Platform()
        self.platform.__enter__()
        self.addCleanup(self.platform.__exit__)


class Calls(WithPlatform):
    def test_invoke(self):
        self.platform.handle("price.shop:live", lambda event: 3 * event["count"])
        self.assertEqual(dayfly.invoke("price.shop:live", {"count": 2}), 6)
        self.assertEqual(dayfly.invoke("price.shop:live", b'{"count": 3}'), 9)
        call = self.platform.calls[0]
        self.assertEqual((call.event, call.asynchronous, call.invocation),
                         ({"count": 2}, False, self.platform.context.aws_request_id))

    def test_text_of_all_kinds(self):
        self.platform.handle("echo", lambda event: event)
        for value in (None, "grüß \U0001f600", "half \ud83d", [1, 2.5, {"a": None}], "x" * (2 << 20)):
            self.assertEqual(dayfly.invoke("echo", value), value)
        with self.assertRaises(TypeError):
            dayfly.invoke("echo", {1, 2})
        with self.assertRaises(ValueError):
            dayfly.invoke("echo", float("nan"))

    def test_failures(self):
        def fail(event):
            raise dayfly.Error("no_capacity", "full", retryable=True, retry_after=1.5)

        self.platform.handle("full", fail)
        self.platform.handle("bad", lambda event: 1 // 0)
        with self.assertRaises(dayfly.Error) as raised:
            dayfly.invoke("full")
        error = raised.exception
        self.assertEqual((error.code, error.message, error.retryable, error.retry_after), ("no_capacity", "full", True, 1.5))
        with self.assertRaises(dayfly.Error) as raised:
            dayfly.invoke("bad")
        self.assertEqual((raised.exception.code, raised.exception.type), ("function.error", "ZeroDivisionError"))
        with self.assertRaises(dayfly.Error) as raised:
            dayfly.invoke("nobody")
        self.assertEqual(raised.exception.code, "not_found")

    def test_later(self):
        self.platform.handle("mail", lambda event: self.fail("it is not run"))
        self.assertTrue(dayfly.invoke_async("mail", [1], idempotency_key="order-7\r\nX: y"))
        call = self.platform.calls[0]
        self.assertEqual((call.event, call.asynchronous, call.idempotency_key), ([1], True, "order-7??X: y"))

    def test_publish(self):
        dayfly.publish("orders.created", {"item": "pear"})
        dayfly.publish("raw", b"as it is")
        self.assertEqual(self.platform.published, [Message("orders.created", b'{"item": "pear"}'), Message("raw", b"as it is")])

    def test_many_at_once(self):
        both = threading.Barrier(8)
        self.platform.handle("slow", lambda event: both.wait(PATIENCE) >= 0 and event)
        results = queue.Queue()
        threads = [threading.Thread(target=lambda n=n: results.put(dayfly.invoke("slow", n))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(sorted(results.get_nowait() for _ in threads), list(range(8)))

    def test_a_lost_platform(self):
        self.platform._server.server_close()
        os.unlink(dayfly._platform.local.socket)
        with self.assertRaises(dayfly.Error) as raised:
            dayfly.invoke("x")
        self.assertEqual(raised.exception.code, "unavailable")


class NoPlatform(unittest.TestCase):
    def test_it_says_so(self):
        with mock.patch.dict(os.environ, clear=True):
            with self.assertRaisesRegex(dayfly.Error, "dayfly.testing.Platform"):
                dayfly.publish("x", 1)
            with self.assertRaisesRegex(RuntimeError, "dayfly.testing.Platform"):
                dayfly.context()


class Configuration(WithPlatform):
    def test_it_changes(self):
        self.platform.set_config({"greeting": "Hello"})
        self.assertEqual(dayfly.config.get("greeting"), "Hello")
        self.assertEqual(dayfly.config.get("other", "?"), "?")
        dayfly.config.all()["greeting"] = "mine"
        changes = queue.Queue()
        stop = dayfly.config.on_change(lambda old, new: changes.put((old, new)))
        dayfly.config.on_change(lambda old, new: 1 // 0)  # disturbs nobody
        with contextlib.redirect_stderr(io.StringIO()):
            for old, new in (("Hello", "Hi"), ("Hi", "Hey")):
                self.platform.set_config({"greeting": new})
                self.assertEqual(changes.get(timeout=PATIENCE), ({"greeting": old}, {"greeting": new}))
                self.assertEqual(dayfly.config.get("greeting"), new)
        stop()

    def test_secrets(self):
        with mock.patch.dict(os.environ, {"API_TOKEN": "of the environment"}):
            self.assertEqual(dayfly.secret("API_TOKEN"), "of the environment")
            for value in ("of the file\r\n", "another"):
                self.platform.set_secret("API_TOKEN", value)
                self.assertEqual(dayfly.secret("API_TOKEN"), value)
        for name in ("MISSING", "", "../x", ".x"):
            with self.assertRaises(KeyError):
                dayfly.secret(name)


class Invocation(WithPlatform):
    def test_context(self):
        got, given = dayfly.context(), self.platform.context
        self.assertEqual((got.invocation_id, got.function, got.version, got.memory_mib, got.trace_id),
                         (given.aws_request_id, "test", "1", 128, "Root=" + given.aws_request_id))
        self.assertTrue(0 < got.remaining() <= 60)

    def test_traceparent(self):
        self.assertEqual(dayfly.traceparent({"headers": {"traceparent": "00-1-2-01"}}), "00-1-2-01")
        for event in ({}, [], None, {"headers": None}, {"headers": {}}):
            self.assertEqual(dayfly.traceparent(event), "")

    def test_put(self):
        dayfly.put("a/b.txt", "grüß")
        dayfly.put("c.bin", b"\0\1")
        dayfly.put("d.bin", io.BytesIO(b"stream"))
        self.assertEqual([self.platform.output(name) for name in ("a/b.txt", "c.bin", "d.bin")], ["grüß".encode(), b"\0\1", b"stream"])
        os.symlink("/", os.path.join(self.platform.output_dir, "link"))
        for name in ("", ".", "../x", "/etc/x", "a/../../x", "link/tmp/x"):
            with self.assertRaises(ValueError):
                dayfly.put(name, "x")


class Log(unittest.TestCase):
    def printed(self, level):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), mock.patch.dict(os.environ, {"LOG_LEVEL": level}):
            dayfly.log.debug("d")
            dayfly.log.info("i", count=3, what={"grüß"})
            dayfly.log.warn("w")
            try:
                1 // 0
            except ZeroDivisionError:
                dayfly.log.exception("e")
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def test_levels(self):
        for level, want in {"": "INFO WARN ERROR", "debug": "DEBUG INFO WARN ERROR", "ERROR": "ERROR", "loud": "INFO WARN ERROR"}.items():
            self.assertEqual(" ".join(entry["level"] for entry in self.printed(level)), want)
        _, info, _, error = self.printed("debug")
        self.assertEqual((info["msg"], info["count"], info["what"]), ("i", 3, "{'grüß'}"))
        self.assertRegex(info["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertIn("ZeroDivisionError", error["exception"])

    def test_standard_loggers(self):
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(dayfly.JSONFormatter())
        logger = logging.Logger("shop")
        logger.addHandler(handler)
        logger.warning("%s left", 3)
        entry = json.loads(out.getvalue())
        self.assertEqual((entry["level"], entry["msg"], entry["logger"]), ("WARN", "3 left", "shop"))


if __name__ == "__main__":
    unittest.main()
