"""An MCP server on standard input and output that misbehaves as its first argument says.

Good enough to be initialized, listed and called; every fault is one of a real server's.
"""
import json
import os
import subprocess
import sys
import threading
import time

MODE = sys.argv[1] if len(sys.argv) > 1 else "good"
MARK = sys.argv[2] if len(sys.argv) > 2 else None
OBJECT = {"type": "object"}
tools = [
    {"name": "echo", "description": "Answers its input.", "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
     "annotations": {"readOnlyHint": True}},
    {"name": "fail", "inputSchema": OBJECT},
    {"name": "wait", "inputSchema": OBJECT},
    {"name": "count", "inputSchema": OBJECT},
    {"name": "structured", "inputSchema": OBJECT, "outputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}}},
]
lock = threading.Lock()
cancelled = []
held = []


def send(message):
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def text(value, **more):
    return {"content": [{"type": "text", "text": value}], **more}


def call(request):
    params, id = request["params"], request["id"]
    name, arguments = params["name"], params.get("arguments", {})
    token = params.get("_meta", {}).get("progressToken")
    if MODE == "hang":
        return
    if MODE == "crash":
        sys.stderr.write("first words\n" * 20 + "token is %s\n" % os.environ.get("TOKEN") + "out of luck\n")
        sys.stderr.flush()
        os._exit(3)
    if MODE == "closes":
        os.close(1)
        time.sleep(60)
    if MODE == "plugged":
        os.close(0)
        time.sleep(60)
    if MODE == "killed":
        os.kill(os.getpid(), 9)
    if MODE == "huge":
        sys.stdout.write('{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"' % json.dumps(id))
        for _ in range(100):
            sys.stdout.write("x" * (1 << 20))
        sys.stdout.write('"}]}}\n')
        sys.stdout.flush()
        return
    if MODE == "flood":
        lines = []
        for n in range(10_000):
            lines.append(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": n}}))
            lines.append(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 200}}))
            lines.append(json.dumps({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    if MODE == "nonsense":
        send({"id": id, "result": {"what": "ever"}})
    elif MODE == "elicit":
        send({"id": 999, "method": "elicitation/create", "params": {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}})
        waiting[999] = lambda answer: send({"id": id, "result": text(json.dumps(answer.get("error", answer.get("result"))))})
    elif name == "echo":
        send({"id": id, "result": text(arguments.get("text", ""))})
    elif name == "fail":
        send({"id": id, "result": text("it broke", isError=True)})
    elif name == "wait":
        return
    elif name == "pid":
        send({"id": id, "result": text(str(os.getpid()))})
    elif name == "until":
        def stay():
            while not os.path.exists(arguments["path"]):
                time.sleep(0.01)
            send({"id": id, "result": text(str(os.getpid()))})
        threading.Thread(target=stay, daemon=True).start()
    elif name == "hold":
        held.append(id)
    elif name == "let_go":
        for one in held:
            send({"id": one, "result": text("held to the end")})
        send({"id": id, "result": text("ok")})
    elif name == "cancelled":
        send({"id": id, "result": text(json.dumps(cancelled))})
    elif name == "count":
        def work():
            for n in range(1, 4):
                send({"method": "notifications/progress", "params": {"progressToken": token, "progress": n, "total": 3, "message": "step"}})
            send({"id": id, "result": text("done")})
        threading.Thread(target=work).start()
    elif name == "structured":
        send({"id": id, "result": text("1", **arguments.get("result", {"structuredContent": {"n": 1}}))})
    elif name == "deep":
        sys.stdout.write('{"jsonrpc":"2.0","id":%s,"result":{"content":[],"structuredContent":{"d":%s}}}\n' % (json.dumps(id), "[" * 5000 + "]" * 5000))
        sys.stdout.flush()
    elif name == "nan":
        send({"id": id, "result": text("1", structuredContent={"n": float("nan")})})
    elif name == "grow":
        tools.append({"name": "grown", "inputSchema": OBJECT})
        send({"id": id, "result": text("ok")})
        send({"method": "notifications/tools/list_changed"})
    elif name == "die":
        send({"id": id, "result": text("bye")})
        os._exit(0)
    else:
        send({"id": id, "error": {"code": -32602, "message": "unknown tool"}})


waiting = {}
if MODE == "mute":
    time.sleep(60)
if MODE == "gone":
    sys.exit("no config: TOKEN=%s" % os.environ.get("TOKEN"))
if MARK:
    # A grandchild that outlives its parent unless the whole group is ended.
    subprocess.Popen(["sleep", MARK])
tools += [{"name": name, "inputSchema": OBJECT} for name in ("hold", "let_go", "cancelled", "pid", "until")]
tools.append({"name": "grow", "inputSchema": OBJECT})
tools.append({"name": "die", "inputSchema": OBJECT})
if MODE == "liar":
    tools += [
        {"name": "echo", "inputSchema": OBJECT},
        {"name": "bad schema", "inputSchema": {"type": "object", "properties": {"x": {"type": 7}}}},
        {"name": "no schema"},
        {"nameless": True, "inputSchema": OBJECT},
    ]
if MODE == "odd":
    tools += [{"name": "no schema"}, {"nameless": True, "inputSchema": OBJECT}]
if MODE == "deep":
    schema = OBJECT
    for n in range(400):
        schema = {"type": "object", "properties": {"x": schema}}
    tools += [{"name": "deep", "inputSchema": schema}, {"name": "nan", "inputSchema": OBJECT}]
if MODE == "many":
    tools += [{"name": "t%d" % n, "inputSchema": OBJECT} for n in range(1000)]
if MODE == "noisy":
    sys.stderr.write("complaint\n" * 5000)
for line in sys.stdin:
    if MODE == "noisy":
        sys.stdout.write("Listening on stdio!\n" * 60 + "{not json\n\n[1,2]\n")
        send({"method": "notifications/message", "params": {"level": "info", "data": "x" * 1000}})
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method is None:
        waiting.pop(id, lambda _: None)(message)
    elif method == "initialize":
        send({"id": id, "result": {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {"listChanged": True}}, "serverInfo": {"name": "fake", "version": "1.2.3"}}})
    elif method == "tools/list" and MODE == "endless":
        send({"id": id, "result": {"tools": tools, "nextCursor": "again"}})
    elif method == "tools/list":
        send({"id": id, "result": {"tools": tools}})
    elif method == "tools/call":
        call(message)
    elif method == "notifications/cancelled":
        cancelled.append(time.time())
    elif id is not None:
        send({"id": id, "error": {"code": -32601, "message": "no such method"}})
