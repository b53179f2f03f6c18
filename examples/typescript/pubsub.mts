// What `@alkdev/pubsub` 0.1.0 puts on the wire: envelopes in text frames, `__subscribe` as listeners come and go.
// Written from the description of that package, since it can't be installed from the registry.

export interface EventEnvelope { type: string; id: string; payload: any }

type Listener = (envelope: EventEnvelope) => void;

/** The part of a WebSocket that is used; the socket is open already, and reconnecting is its owner's job. */
export interface Socket {
  send(text: string): void;
  addEventListener(type: "message" | "close" | "error", listener: (event: any) => void): void;
}

export class PubSub {
  readonly #socket: Socket;
  readonly #listeners = new Map<string, Set<Listener>>();

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.addEventListener("message", (event) => this.#receive(event.data));
  }

  publish(type: string, id: string, payload: unknown): void {
    if (type.startsWith("__")) throw new Error(`event type ${type} is reserved`);
    this.#send({ type, id, payload });
  }

  /** Listens on the topic `type:id`; the id may be empty. The first listener of a topic subscribes to it. */
  subscribe(type: string, id: string, listener: Listener): () => void {
    const topic = `${type}:${id}`;
    const listeners = this.#listeners.get(topic) ?? new Set();
    if (listeners.size === 0) {
      this.#listeners.set(topic, listeners);
      this.#send({ type: "__subscribe", id: "", payload: { topic } });
    }
    listeners.add(listener);
    return () => {
      if (listeners.delete(listener) && listeners.size === 0) {
        this.#listeners.delete(topic);
        this.#send({ type: "__unsubscribe", id: "", payload: { topic } });
      }
    };
  }

  #receive(text: unknown): void {
    if (typeof text !== "string") return;
    const envelope: EventEnvelope = JSON.parse(text);
    // Control types never reach listeners, and a topic that nobody listens on is passed over.
    if (envelope.type.startsWith("__")) return;
    for (const listener of [...(this.#listeners.get(`${envelope.type}:${envelope.id}`) ?? [])]) listener(envelope);
  }

  #send(envelope: EventEnvelope): void {
    this.#socket.send(JSON.stringify(envelope));
  }
}
