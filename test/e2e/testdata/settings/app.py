"""What the tests ask a function about its configuration and secrets."""

import json
import os
import stat
import urllib.request

at_init = json.load(urllib.request.urlopen("http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/dayfly/v1/config"))


def handler(event, context):
    return globals()["do_" + event["do"]](event)


def do_config(event):
    url = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/dayfly/v1/config" + event.get("query", "")
    with urllib.request.urlopen(url) as answer:
        return {"config": json.load(answer), "init": at_init, "instance": os.environ["DAYFLY_INSTANCE"]}


def do_secret(event):
    """Nothing of a value is in an answer: it would be in its record."""
    name, want = event["name"], event["parts"]
    path = "/run/secrets/" + name
    found = {"env": match(os.environ.get(name), want), "instance": os.environ["DAYFLY_INSTANCE"]}
    try:
        with open(path) as file:
            found["file"] = match(file.read(), want)
        info = os.stat(path)
        found["mode"] = stat.filemode(info.st_mode)
        found["own"] = info.st_uid == os.getuid()
    except FileNotFoundError:
        found["file"] = "missing"
    try:
        open("/run/secrets/mine", "w").close()
        found["writable"] = True
    except OSError:
        found["writable"] = False
    return found


def match(value, parts):
    if value is None:
        return "missing"
    return "same" if value == "-".join(parts) else "other"


def do_fail(event):
    raise ValueError("as it was told to")
