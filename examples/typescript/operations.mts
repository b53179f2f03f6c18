// What `@alkdev/operations` 0.1.0 does on top of pubsub: specs, a registry, and both sides of the call protocol.
// Its gaps are kept on purpose, since a hub has to live with them: envelope ids are empty and calls are told apart by
// payload.requestId; a call that times out sends no call.aborted; an inbound call.aborted does not stop a handler;
// handlers enforce no deadline; only the five call events are known.

import { randomUUID } from "node:crypto";
import type { PubSub } from "./pubsub.mts";

export type OperationType = "query" | "mutation" | "subscription";

export interface OperationSpec {
  name: string; namespace: string; version: string; type: OperationType;
  title?: string; description: string; tags?: string[];
  inputSchema: object; outputSchema: object;
  errorSchemas?: { code: string; description: string; schema: object; httpStatus?: number }[];
  accessControl: { requiredScopes: string[]; requiredScopesAny?: string[]; resourceType?: string; resourceAction?: string };
  _meta?: object;
}

export interface Identity { id: string; scopes: string[]; resources?: Record<string, string[]> }

export interface OperationContext {
  requestId?: string; parentRequestId?: string; identity?: Identity; metadata?: Record<string, unknown>;
}

export interface ResponseEnvelope { data: any; meta: { source: string; [member: string]: unknown } }

/** A promise for queries and mutations, an async generator for subscriptions. */
export type Handler = (input: any, context: OperationContext) => unknown;

export class CallError extends Error {
  readonly code: string;
  readonly details?: unknown;
  constructor(code: string, message: string, details?: unknown) {
    super(message);
    this.code = code;
    this.details = details;
  }
}

export class OperationRegistry {
  readonly #entries = new Map<string, { spec: OperationSpec; handler: Handler }>();

  register(spec: OperationSpec, handler: Handler): void {
    this.#entries.set(`${spec.namespace}.${spec.name}`, { spec, handler });
  }

  get(id: string): { spec: OperationSpec; handler: Handler } | undefined {
    return this.#entries.get(id);
  }

  getAllSpecs(): OperationSpec[] {
    return [...this.#entries.values()].map((entry) => entry.spec);
  }
}

interface Pending { resolve(output: ResponseEnvelope): void; reject(error: CallError): void; timer?: NodeJS.Timeout }

/** The caller's side: settles each call by the first event that names its request. */
export class PendingRequestMap {
  readonly #pubsub: PubSub;
  readonly #pending = new Map<string, Pending>();

  constructor(pubsub: PubSub) {
    this.#pubsub = pubsub;
    const on = (type: string, settle: (pending: Pending, payload: any) => void) =>
      pubsub.subscribe(type, "", ({ payload }) => {
        const pending = this.#take(payload.requestId);
        if (pending) settle(pending, payload);
      });
    on("call.responded", (pending, { output }) => pending.resolve(output));
    on("call.error", (pending, { code, message, details }) => pending.reject(new CallError(code, message, details)));
    on("call.completed", (pending) => pending.reject(new CallError("ABORTED", "completed without response")));
    on("call.aborted", (pending, { requestId }) => pending.reject(new CallError("ABORTED", `${requestId} was aborted`)));
  }

  call(operationId: string, input: unknown, options: { parentRequestId?: string; deadline?: number } = {}) {
    const requestId = randomUUID();
    return new Promise<ResponseEnvelope>((resolve, reject) => {
      const pending: Pending = { resolve, reject };
      if (options.deadline !== undefined) {
        const expire = () => this.#take(requestId)?.reject(new CallError("TIMEOUT", "timed out", { deadline: options.deadline }));
        pending.timer = setTimeout(expire, Math.max(0, options.deadline - Date.now()));
      }
      this.#pending.set(requestId, pending);
      this.#pubsub.publish("call.requested", "", { requestId, operationId, input, ...options });
    });
  }

  respond(requestId: string, output: ResponseEnvelope): void {
    this.#pubsub.publish("call.responded", "", { requestId, output });
  }

  complete(requestId: string): void {
    this.#pubsub.publish("call.completed", "", { requestId });
  }

  emitError(requestId: string, code: string, message: string, details?: unknown): void {
    this.#pubsub.publish("call.error", "", { requestId, code, message, details });
  }

  #take(requestId: string): Pending | undefined {
    const pending = this.#pending.get(requestId);
    this.#pending.delete(requestId);
    clearTimeout(pending?.timer);
    return pending;
  }
}

/** The callee's side: listen on `call.requested:` and give each event to the function that this makes. */
export function buildCallHandler({ registry, callMap }: { registry: OperationRegistry; callMap: PendingRequestMap }) {
  return async ({ payload }: { payload: any }): Promise<void> => {
    const { requestId, operationId, input, parentRequestId, identity, metadata } = payload;
    const entry = registry.get(operationId);
    if (!entry) {
      callMap.emitError(requestId, "OPERATION_NOT_FOUND", `no operation ${operationId}`, { operationId });
      return;
    }
    const wrap = (data: unknown): ResponseEnvelope =>
      isResponseEnvelope(data) ? data : { data, meta: { source: "local", operationId, timestamp: Date.now() } };
    try {
      const result = entry.handler(input, { requestId, parentRequestId, identity, metadata });
      if (entry.spec.type === "subscription") {
        for await (const data of result as AsyncIterable<unknown>) callMap.respond(requestId, wrap(data));
        callMap.complete(requestId);
      } else {
        callMap.respond(requestId, wrap(await result));
      }
    } catch (error) {
      const { code, message, details } = mapError(error, entry.spec);
      callMap.emitError(requestId, code, message, details);
    }
  };
}

function isResponseEnvelope(value: any): value is ResponseEnvelope {
  const meta = value?.meta;
  return typeof value === "object" && value !== null && "data" in value &&
    (meta?.source === "local" && typeof meta.operationId === "string" && typeof meta.timestamp === "number" ||
      meta?.source === "http" && typeof meta.statusCode === "number" ||
      meta?.source === "mcp" && typeof meta.isError === "boolean" && Array.isArray(meta.content));
}

function mapError(error: unknown, spec: OperationSpec): { code: string; message: string; details?: unknown } {
  if (error instanceof CallError) return error;
  if (!(error instanceof Error)) return { code: "UNKNOWN_ERROR", message: "unknown error", details: { raw: String(error) } };
  const { message } = error;
  const declared = spec.errorSchemas?.find(({ code }) => message === code || message.startsWith(`${code}:`));
  return { code: declared?.code ?? "EXECUTION_ERROR", message, details: { message } };
}
