def handler(event, context):
    # By URL the name is a query parameter, by `dayfly invoke` it is in the event.
    name = event.get("queryStringParameters", event).get("name", "world")
    print(f"greeting {name}, {context.get_remaining_time_in_millis()} ms left")
    return {"message": f"Hello, {name}!", "version": context.function_version}
