"""Turns CSV with a header line into JSON rows, with numbers as numbers."""

import base64
import csv
import io
import json
import re

INTEGER = re.compile(r"-?(0|[1-9]\d{0,15})")
DECIMAL = re.compile(r"-?(0|[1-9]\d{0,15})\.\d{1,15}")
WORDS = {"": None, "true": True, "false": False}


def handler(event, context):
    if "requestContext" not in event:  # `dayfly invoke` with {"csv": "..."}
        return rows(event["csv"])
    try:
        return {
            "statusCode": 200,
            "headers": {"content-type": "application/json"},
            "body": json.dumps(rows(body_text(event)), ensure_ascii=False),
        }
    except ValueError as error:
        return {"statusCode": 400, "body": f"{error}\n"}


def rows(text):
    lines = io.StringIO(text.removeprefix("\ufeff"), newline="")
    reader = csv.reader(lines, delimiter=delimiter(text), strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise ValueError("the CSV is empty: its first line must name the columns")
        result = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"line {reader.line_num} has {len(row)} fields, the header has {len(header)}")
            result.append(dict(zip(header, map(typed, row))))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    print(f"{len(result)} rows, {len(header)} columns")
    return result


def delimiter(text):
    """The sign that the header line has most of."""
    return max(",;\t|", key=text.partition("\n")[0].count)


def typed(field):
    if INTEGER.fullmatch(field):  # 007 is not a number but a name
        return int(field)
    if DECIMAL.fullmatch(field):
        return float(field)
    return WORDS.get(field.lower(), field)


def body_text(event):
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return body
    try:
        return base64.b64decode(body).decode()
    except UnicodeDecodeError:
        raise ValueError("the CSV is not UTF-8") from None
