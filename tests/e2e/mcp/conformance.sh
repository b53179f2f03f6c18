#!/bin/sh
# Runs MCP's official conformance suite against a hub, with the tools of fixtures.py imported through `hub spoke mcp`.
# What is expected to fail, and why, is in expected-*.yml; anything else that fails, or passes, is an error.
#
#   tests/e2e/mcp/conformance.sh FOLDER [PROFILE_FOLDER]
#
# FOLDER is where `npm install @modelcontextprotocol/conformance@0.2.0-alpha.12` was run (Node 22 or newer in PATH);
# PROFILE_FOLDER holds hub-server and hub, default target/debug.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
suite=$(cd "$1" && pwd)/node_modules/@modelcontextprotocol/conformance/dist/index.js
bin=$(cd "${2:-target/debug}" && pwd)
work=$(mktemp -d)
pids=
finish() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT INT TERM

wait_for() { # FILE PATTERN
    tries=0
    until grep -q "$2" "$1" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 200 ]; then echo "no $2 in time:"; cat "$1"; exit 1; fi
        sleep 0.1
    done
}

"$bin/hub-server" --listen 127.0.0.1:0 --data-dir "$work/data" >"$work/hub.log" 2>&1 &
pids="$pids $!"
wait_for "$work/hub.log" 'listening on'
url=$(sed -n 's/.*listening on //p' "$work/hub.log")

HUB_KEY=$(cat "$work/data/admin.key") "$bin/hub" spoke mcp --url "$url" --name fixtures --no-scope --as-tools \
    --stream test_tool_with_progress -- python3 "$here/fixtures.py" >"$work/spoke.log" 2>&1 &
pids="$pids $!"
wait_for "$work/spoke.log" 'Ctrl-C ends it'

node "$here/add_key.mjs" "$url" "$work/data/admin.key" >"$work/proxy.log" 2>&1 &
pids="$pids $!"
wait_for "$work/proxy.log" '^[0-9]'
port=$(cat "$work/proxy.log")

failed=0
cd "$work"
for revision in 2025-11-25 2026-07-28; do
    echo "== $revision"
    node "$suite" server --url "http://127.0.0.1:$port/mcp" --requirements "$revision" \
        --expected-failures "$here/expected-$revision.yml" >"$work/$revision.log" 2>&1 || failed=1
    sed -n '/=== SUMMARY/,$p' "$work/$revision.log"
done
exit "$failed"
