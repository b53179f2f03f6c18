"""What an agent host does, with the official client: python client.py URL auto|legacy [own], the key in HUB_KEY.

`auto` is the newest revision that both speak, `legacy` one with sessions. With `own` it calls each tool that is an
operation of its own. clients.rs reads the lines.
"""
import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


def say(what):
    print(json.dumps(what), flush=True)


async def call_each(client, names):
    for name in names:
        try:
            answer = await client.call_tool(name, {})
        except Exception as error:
            say({"name": name, "raised": str(error)})
            continue
        structured = {} if answer.structured_content is None else {"structuredContent": answer.structured_content}
        say({"name": name, "isError": answer.is_error, **structured})


async def main(url, mode, own=None):
    key = {"authorization": "Bearer " + os.environ["HUB_KEY"]}
    async with httpx2.AsyncClient(headers=key) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            async def call(operation, input, **more):
                return await client.call_tool("call", {"operationId": operation, "input": input}, **more)

            async def progress(done, total, message):
                say({"progress": done})

            say({"version": client.protocol_version})
            tools = sorted(tool.name for tool in (await client.list_tools()).tools)
            if own:
                await call_each(client, [name for name in tools if name not in ("call", "list", "schema", "search")])
                return
            say({"tools": tools})
            say((await call("demo.add", [1, 2])).structured_content["data"])
            streamed = await call("steps.count", 3, progress_callback=progress)
            say(streamed.structured_content["items"])
            waiting = asyncio.create_task(call("demo.parent", {}))
            await asyncio.to_thread(sys.stdin.readline)
            waiting.cancel()
            try:
                await waiting
            except asyncio.CancelledError:
                say("cancelled")
            say((await call("demo.add", [3, 4])).structured_content["data"])


asyncio.run(main(*sys.argv[1:]))
