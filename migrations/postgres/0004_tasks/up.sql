-- A task of an MCP host is a call whose caller's id is the call's own; few are, and their host lists them.
CREATE INDEX calls_tasks ON calls (principal, call_id) WHERE request_id = call_id::text;
