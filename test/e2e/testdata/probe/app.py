"""What the tests ask a function to do: over HTTP by path, else by "do"."""

import base64
import ctypes
import json
import os
import signal
import socket
import time


def handler(event, context):
    if "requestContext" in event:
        return http(event)
    return globals()["do_" + event["do"]](event, context)


def http(event):
    body = event.get("body", "")
    raw = base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
    if event["rawPath"] == "/reply":  # answer what the caller says
        return json.loads(raw)
    if event["rawPath"] == "/mirror":  # send the same bytes back
        return {
            "statusCode": 200,
            "headers": {"content-type": event["headers"].get("content-type", "none/none")},
            "body": base64.b64encode(raw).decode(),
            "isBase64Encoded": True,
        }
    return event


def do_echo(event, context):
    return event.get("value")


def do_instance(event, context):
    return os.environ["DAYFLY_INSTANCE"]


def do_version(event, context):
    return {"version": context.function_version, "text": os.environ.get("TEXT")}


def do_who(event, context):
    return {
        "user": os.getuid(),
        "request": context.aws_request_id,
        "memory": os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        "arn": context.invoked_function_arn,
        "left": context.get_remaining_time_in_millis(),
    }


def do_size(event, context):
    return len(event["text"])


def do_fill(event, context):
    return "x" * event["size"]


def do_print(event, context):
    for line in event["lines"]:
        print(line)
    time.sleep(event.get("then", 0))
    while "until" in event and not os.path.exists(event["until"]):
        time.sleep(0.05)
    return len(event["lines"])


def do_sleep(event, context):
    time.sleep(event["seconds"])
    return os.environ["DAYFLY_INSTANCE"]


def do_spin(event, context):
    print("before the end", flush=True)
    while True:
        pass


def deafen():
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass  # KILL and STOP


def do_ignore(event, context):
    print("before the end", flush=True)
    deafen()
    while True:
        time.sleep(1)


def do_fork(event, context):
    for _ in range(8):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                deafen()
                while True:
                    time.sleep(0.01)
            os._exit(0)
    print("before the end", flush=True)
    while True:
        time.sleep(1)


def do_raise(event, context):
    print("about to raise")
    raise ValueError("boom 42")


def do_unwritable(event, context):
    return {"a set": {1, 2}}


def do_exit(event, context):
    print("about to exit", flush=True)
    os._exit(event["status"])


def do_crash(event, context):
    print("about to crash", flush=True)
    ctypes.string_at(0)


def do_eat(event, context):
    print("about to eat", flush=True)
    held = []
    while True:
        held.append(b"x" * (8 << 20))


def do_leave(event, context):
    """Leaves files and links in the output folder, and lists it as it found it."""
    root = os.environ["DAYFLY_OUTPUT_DIR"]
    found = sorted(os.listdir(root))
    for path, text in event.get("files", {}).items():
        os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
        with open(os.path.join(root, path), "w") as file:
            file.write(text)
    for path, target in event.get("links", {}).items():
        os.symlink(target, os.path.join(root, path))
    for size in event.get("large", []):
        with open(os.path.join(root, "large"), "wb") as file:
            file.truncate(size)
    if event.get("fail"):
        raise ValueError("failed after it left files")
    return {"found": found}


def do_connect(event, context):
    """Connects and answers with what it reads, or with why it could not."""
    try:
        with socket.create_connection((event["host"], event["port"]), timeout=2) as connection:
            return connection.recv(100).decode()
    except OSError as error:
        return "refused: " + str(error)
