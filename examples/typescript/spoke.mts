// A spoke in TypeScript, in the dialect of the published `@alkdev/operations` 0.1.0 over `@alkdev/pubsub` 0.1.0.
//
//     HUB_KEY=... node spoke.mts [ws://127.0.0.1:3300/ws] [name]
//
// Prints one line of JSON with the registered operations, then serves until the connection ends.

import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { arch, platform } from "node:os";
import { buildCallHandler, OperationRegistry, PendingRequestMap } from "./operations.mts";
import type { Handler, OperationSpec, OperationType } from "./operations.mts";
import { PubSub } from "./pubsub.mts";

const [url = "ws://127.0.0.1:3300/ws", name = "ts"] = process.argv.slice(2);
const key = process.env.HUB_KEY ?? "";
const startedAt = Date.now();

const registry = new OperationRegistry();

function offer(operation: string, type: OperationType, description: string, properties: object, handler: Handler): void {
  const inputSchema = { type: "object", properties, required: Object.keys(properties) };
  const errorSchemas = [{ code: "EMPTY_TEXT", description: "There is nothing to shout.", schema: {}, httpStatus: 400 }];
  const spec: OperationSpec = {
    name: operation, namespace: "demo", version: "1.0.0", type, description,
    inputSchema, outputSchema: {}, errorSchemas, accessControl: { requiredScopes: [] },
  };
  registry.register(spec, handler);
}

offer("shout", "query", "Answer a text in capitals.", { text: { type: "string" } }, async ({ text }) => {
  if (text === "") throw new Error("EMPTY_TEXT: give me something");
  return text.toUpperCase();
});

offer("count", "subscription", "Count from 1 to `to`.", { to: { type: "integer" } }, async function* ({ to }) {
  for (let number = 1; number <= to; number += 1) {
    yield number;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

// A handler without a result: JSON leaves `data` out of the response.
offer("forget", "mutation", "Do nothing with a text.", { text: { type: "string" } }, async () => undefined);

// A nested call: the hub knows by parentRequestId on whose behalf it is made, and its answer passes through unwrapped.
offer("whoami", "query", "Ask the hub who this spoke is.", {}, (_, { requestId }) =>
  callMap.call("hub.whoami", {}, { parentRequestId: requestId, deadline: Date.now() + 5_000 }));

// Node has a WebSocket of its own from version 22 on; before that, the one of the package `ws`.
const WebSocketClass: any = globalThis.WebSocket ?? createRequire(import.meta.url)("ws");
const socket = new WebSocketClass(url, ["hub.v1", `bearer.${key}`]);
await new Promise((resolve, reject) => {
  socket.addEventListener("open", resolve);
  socket.addEventListener("error", () => reject(new Error(`no connection to ${url}: does a hub run there, and is HUB_KEY right?`)));
});
socket.addEventListener("close", ({ code, reason }: any) => {
  console.error(`closed by the hub: ${code} ${reason}`);
  process.exit(code === 1000 || code === 1001 ? 0 : 1);
});

const pubsub = new PubSub(socket);
const callMap = new PendingRequestMap(pubsub);
pubsub.subscribe("call.requested", "", buildCallHandler({ registry, callMap }));

const registered = await callMap.call("hub.register", {
  name,
  spokeType: "client",
  operations: registry.getAllSpecs(),
  instanceId: randomUUID(),
  startedAt,
  hostInfo: { os: platform(), arch: arch(), nodeVersion: process.version },
});
console.log(JSON.stringify(registered.data.operations));
