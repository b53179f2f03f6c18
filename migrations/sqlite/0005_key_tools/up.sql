-- Patterns of the operations that MCP hosts with this key see as tools of their own.
ALTER TABLE api_keys ADD COLUMN tools TEXT NOT NULL DEFAULT '[]';
