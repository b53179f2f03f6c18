"""A caller: adds two numbers on the spoke of spoke.py, then lets it count and stops it after three.

    python caller.py [--url ws://127.0.0.1:3300/ws] [--name py] [--key KEY]    (or the key in HUB_KEY)
"""
import argparse, asyncio, json, os, uuid
from websockets.asyncio.client import connect


class Hub:
    """Calls operations over one connection; any number at the same time."""

    def __init__(self, socket):
        self.socket, self.waiting = socket, {}
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        try:
            async for message in self.socket:
                event = json.loads(message)
                queue = self.waiting.get(event["payload"].get("requestId"))
                if queue:
                    queue.put_nowait((event["type"], event["payload"]))
        finally:
            for queue in self.waiting.values():
                queue.put_nowait(("call.error", {"code": "SPOKE_DISCONNECTED", "message": "the hub is gone"}))

    async def send(self, kind, payload):
        await self.socket.send(json.dumps({"type": kind, "id": "", "payload": payload}))

    async def subscribe(self, operation, **params):
        """Yields the data of each response. Leaving the loop early aborts the call."""
        request, over = str(uuid.uuid4()), False
        queue = self.waiting[request] = asyncio.Queue()
        try:
            await self.send("call.requested", {"requestId": request, "operationId": operation, "input": params})
            while True:
                kind, payload = await queue.get()
                over = kind != "call.responded"
                if kind == "call.error":
                    raise RuntimeError(f"{payload['code']}: {payload['message']}")
                if over:
                    return
                yield payload["output"].get("data")
        finally:
            del self.waiting[request]
            if not over:
                # For a call that has been answered already this says nothing new, and the hub ignores it.
                await self.send("call.aborted", {"requestId": request})

    async def call(self, operation, **params):
        """The data of the one response of a query or mutation."""
        async for data in self.subscribe(operation, **params):
            return data


async def main(args):
    async with connect(args.url, additional_headers={"Authorization": f"Bearer {args.key}"}) as socket:
        hub = Hub(socket)
        print("2 + 3 =", await hub.call(f"client.{args.name}.demo.add", a=2, b=3))
        numbers = hub.subscribe(f"client.{args.name}.demo.count", to=1000, pauseMs=50)
        async for number in numbers:
            print("counted", number)
            if number == 3:
                break
        await numbers.aclose()
        print("stopped it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:3300/ws")
    parser.add_argument("--name", default="py")
    parser.add_argument("--key", default=os.environ.get("HUB_KEY", ""))
    asyncio.run(main(parser.parse_args()))
