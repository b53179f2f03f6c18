"""A spoke: offers demo.add (a query) and demo.count (a subscription) to a hub.

    python spoke.py [--url ws://127.0.0.1:3300/ws] [--name py] [--key KEY]    (or the key in HUB_KEY)
"""
import argparse, asyncio, json, os, time, uuid
from websockets.asyncio.client import connect

INTEGER = {"type": "integer"}


def spec(name, kind, description, **parameters):
    schema = {"type": "object", "properties": parameters, "required": list(parameters), "additionalProperties": False}
    return {"namespace": "demo", "name": name, "version": "1.0.0", "type": kind, "description": description,
            "inputSchema": schema, "outputSchema": INTEGER, "accessControl": {"requiredScopes": []}}


async def add(a, b):
    yield a + b


async def count(to, pauseMs):
    for number in range(1, to + 1):
        yield number
        await asyncio.sleep(pauseMs / 1000)


SPECS = [spec("add", "query", "Add two integers.", a=INTEGER, b=INTEGER),
         spec("count", "subscription", "Count from 1 to `to`, with a pause after each.", to=INTEGER, pauseMs=INTEGER)]
HANDLERS = {"demo.add": (add, False), "demo.count": (count, True)}


async def serve(send, call):
    """Runs one call of the hub's. The hub has checked rights and input already."""
    operation, this = call["operationId"], {"requestId": call["requestId"]}
    try:
        handler, streams = HANDLERS[operation]
        async for data in handler(**call["input"]):
            meta = {"source": "local", "operationId": operation, "timestamp": time.time() * 1000}
            await send("call.responded", this | {"output": {"data": data, "meta": meta}})
        if streams:
            await send("call.completed", this)
    except asyncio.CancelledError:
        await send("call.aborted", this)
    except Exception as error:
        await send("call.error", this | {"code": "EXECUTION_ERROR", "message": type(error).__name__})


async def main(args):
    async with connect(args.url, additional_headers={"Authorization": f"Bearer {args.key}"}) as socket:
        async def send(kind, payload):
            await socket.send(json.dumps({"type": kind, "id": "", "payload": payload}))

        offer = {"name": args.name, "spokeType": "client", "operations": SPECS,
                 "instanceId": str(uuid.uuid4()), "startedAt": int(time.time() * 1000)}
        await send("call.requested", {"requestId": "register", "operationId": "hub.register", "input": offer})
        running = {}
        async for message in socket:
            event = json.loads(message)
            kind, payload = event["type"], event["payload"]
            if kind == "call.requested":
                task = asyncio.create_task(serve(send, payload))
                running[payload["requestId"]] = task
                task.add_done_callback(lambda _, request=payload["requestId"]: running.pop(request))
            elif kind == "call.aborted" and payload["requestId"] in running:
                running[payload["requestId"]].cancel()
            elif kind == "call.responded" and payload["requestId"] == "register":
                print("serving", *(o["id"] for o in payload["output"]["data"]["operations"]), flush=True)
            elif kind in ("call.error", "hub.protocol_error"):
                raise SystemExit(f"{payload['code']}: {payload['message']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:3300/ws")
    parser.add_argument("--name", default="py")
    parser.add_argument("--key", default=os.environ.get("HUB_KEY", ""))
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        pass
