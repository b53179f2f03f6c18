"""A caller: adds two numbers on the spoke of spoke.py, then lets it count and stops it after three.

    python caller.py [--url ws://127.0.0.1:3300/ws] [--name py] [--key KEY]    (or the key in HUB_KEY)
"""
import argparse, asyncio, json, os, uuid
from contextlib import aclosing, suppress
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


class Hub:
    """Calls operations over one connection; any number at the same time."""

    def __init__(self, socket):
        self.socket, self.waiting = socket, {}
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        with suppress(ConnectionClosed):
            async for message in self.socket:
                event = json.loads(message)
                queue = self.waiting.get(event["payload"].get("requestId"))
                if queue:
                    queue.put_nowait((event["type"], event["payload"]))
        for queue in self.waiting.values():
            queue.put_nowait(("call.error", {"code": "SPOKE_DISCONNECTED", "message": "the hub is gone"}))

    async def send(self, kind, payload):
        await self.socket.send(json.dumps({"type": kind, "id": "", "payload": payload}))

    async def responses(self, operation, params, only_one):
        """Yields the data of each response; closed before the end, it aborts the call."""
        request, over = str(uuid.uuid4()), False
        queue = self.waiting[request] = asyncio.Queue()
        try:
            await self.send("call.requested", {"requestId": request, "operationId": operation, "input": params})
            while not over:
                kind, payload = await queue.get()
                over = only_one or kind != "call.responded"
                if kind == "call.responded":
                    yield payload["output"].get("data")
                elif kind == "call.error":
                    raise RuntimeError(f"{payload['code']}: {payload['message']}")
        finally:
            del self.waiting[request]
            if not over:
                await self.send("call.aborted", {"requestId": request})

    async def call(self, operation, **params):
        """The data of the one response of a query or mutation."""
        async with aclosing(self.responses(operation, params, True)) as responses:
            return await anext(responses)

    def subscribe(self, operation, **params):
        """The data of all responses of a subscription: `async with hub.subscribe(...) as items`."""
        return aclosing(self.responses(operation, params, False))


async def main(args):
    async with connect(args.url, additional_headers={"Authorization": f"Bearer {args.key}"}) as socket:
        hub = Hub(socket)
        print("2 + 3 =", await hub.call(f"client.{args.name}.demo.add", a=2, b=3))
        async with hub.subscribe(f"client.{args.name}.demo.count", to=1000, pauseMs=50) as numbers:
            async for number in numbers:
                print("counted", number)
                if number == 3:
                    break
        print("stopped it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:3300/ws")
    parser.add_argument("--name", default="py")
    parser.add_argument("--key", default=os.environ.get("HUB_KEY", ""))
    asyncio.run(main(parser.parse_args()))
