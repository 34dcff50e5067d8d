"""Runs the examples of the README."""

import contextlib
import io
import os
import re
import unittest

README = os.path.join(os.path.dirname(__file__), "..", "README.md")


class Readme(unittest.TestCase):
    def test_examples(self):
        with open(README, encoding="utf-8") as file:
            blocks = re.findall(r"```python\n(.*?)```", file.read(), re.S)
        self.assertGreaterEqual(len(blocks), 2)
        names = {}
        for block in blocks:
            exec(compile(block, README, "exec"), names)
        tests = [name for name in names if name.startswith("test_")]
        self.assertTrue(tests)
        with contextlib.redirect_stdout(io.StringIO()):
            for name in tests:
                names[name]()
