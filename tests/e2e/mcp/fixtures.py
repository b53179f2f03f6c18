"""The tools that MCP's conformance suite calls by name, as an MCP server on standard input and output.

Offered through `hub spoke mcp --as-tools`, so that both sides of the hub are tested: its client and its server.
Its own tool `wait` never answers; a UDP port given as argument is told that it was called, and cancelled. With the
argument `jobs` it also has the tools of the scenarios on tasks, which take their time.
"""
import base64
import json
import socket
import sys
import threading

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = base64.b64encode(b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0\x80>\0\0\2\0\x10\0data\0\0\0\0").decode()
TEXT = {"type": "text", "text": "This is a simple text response for testing."}
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}
AUDIO = {"type": "audio", "data": WAV, "mimeType": "audio/wav"}
EMBEDDED = {"type": "resource", "resource": {"uri": "test://embedded-resource", "mimeType": "text/plain",
            "text": "This is an embedded resource content."}}
MIXED = [
    {"type": "text", "text": "Multiple content types test:"},
    IMAGE,
    {"type": "resource", "resource": {"uri": "test://mixed-content-resource", "mimeType": "application/json",
     "text": json.dumps({"test": "data", "value": 123})}},
]
OBJECT = {"type": "object", "properties": {}}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object",
              "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
    "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"},
                   "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                   "phone": {"type": "string"}, "email": {"type": "string"}},
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
ANSWERS = {
    "test_simple_text": [TEXT],
    "test_image_content": [IMAGE],
    "test_audio_content": [AUDIO],
    "test_embedded_resource": [EMBEDDED],
    "test_multiple_content_types": MIXED,
    "json_schema_2020_12_tool": [TEXT],
}


WRITING = threading.Lock()


def send(message):
    with WRITING:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def later(seconds, message):
    timer = threading.Timer(seconds, send, [message])
    timer.daemon = True
    timer.start()


def tell(what):
    if sys.argv[1:] != ["jobs"]:
        socket.socket(type=socket.SOCK_DGRAM).sendto(what.encode(), ("127.0.0.1", int(sys.argv[1])))


def call(id, params):
    name = params["name"]
    if name == "wait":
        tell("called")
    elif name in ANSWERS:
        send({"id": id, "result": {"content": ANSWERS[name]}})
    elif name == "test_error_handling":
        text = "This tool intentionally returns an error for testing"
        send({"id": id, "result": {"isError": True, "content": [{"type": "text", "text": text}]}})
    elif name == "test_tool_with_progress":
        token = params.get("_meta", {}).get("progressToken")
        for step in (0, 50, 100):
            progress = {"progressToken": token, "progress": step, "total": 100, "message": f"Completed step {step} of 100"}
            send({"method": "notifications/progress", "params": progress})
        send({"id": id, "result": {"content": [TEXT]}})
    elif name == "greet":
        send({"id": id, "result": {"content": [{"type": "text", "text": "Hello, " + params["arguments"]["name"] + "!"}]}})
    elif name == "slow_compute":
        later(params["arguments"].get("seconds", 0), {"id": id, "result": {"content": [TEXT]}})
    elif name == "confirm_delete":
        later(1.5, {"id": id, "result": {"content": [TEXT]}})
    elif name == "failing_job":
        later(1.5, {"id": id, "result": {"isError": True, "content": [TEXT]}})
    elif name == "protocol_error_job":
        later(1.5, {"id": id, "error": {"code": -32603, "message": "it has panicked"}})
    else:
        send({"id": id, "error": {"code": -32602, "message": f"unknown tool {name}"}})


names = [*ANSWERS, "test_error_handling", "test_tool_with_progress", "wait"]
if sys.argv[1:] == ["jobs"]:
    names += ["greet", "slow_compute", "confirm_delete", "failing_job", "protocol_error_job"]
tools = [{"name": n, "description": "A fixture.", "inputSchema": SCHEMA if n.startswith("json_schema") else OBJECT} for n in names]
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        info = {"name": "fixtures", "version": "1.0.0"}
        send({"id": id, "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}})
    elif method == "tools/list":
        send({"id": id, "result": {"tools": tools}})
    elif method == "tools/call":
        call(id, message["params"])
    elif method == "notifications/cancelled":
        tell("cancelled")
    elif id is not None:
        send({"id": id, "error": {"code": -32601, "message": "no such method"}})
