"""See rehearse in bootstrap.py."""


def handler(event, context):
    return event
