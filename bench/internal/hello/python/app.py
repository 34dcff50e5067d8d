import time


def handler(event, context):
    hold = event.get("queryStringParameters", {}).get("hold")
    if hold:
        time.sleep(float(hold.removesuffix("s")))
    return {"message": "hello"}
