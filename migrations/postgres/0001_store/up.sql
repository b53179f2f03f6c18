-- Ids are UUIDv7, times UTC with microseconds, JSON columns the text as it arrived (jsonb would respell what is hashed and
-- compared), money integer micro-dollars. Texts sort by their bytes, as on SQLite, whatever the database's locale is.

CREATE TABLE accounts (
    id uuid NOT NULL PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    kind text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE api_keys (
    id uuid NOT NULL PRIMARY KEY,
    public_id text COLLATE "C" NOT NULL UNIQUE,
    hash bytea NOT NULL CHECK (length(hash) = 32),
    principal text COLLATE "C" NOT NULL,
    account_id uuid NOT NULL REFERENCES accounts (id),
    name text COLLATE "C" NOT NULL,
    scopes text NOT NULL,
    resources text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    -- Deferrable for the import alone, which meets a key before its successor.
    rotated_to uuid REFERENCES api_keys (id) DEFERRABLE INITIALLY IMMEDIATE,
    last_used_at timestamptz
);
CREATE INDEX api_keys_newest ON api_keys (created_at, id);
CREATE INDEX api_keys_account ON api_keys (account_id);
CREATE INDEX api_keys_rotated ON api_keys (rotated_to) WHERE rotated_to IS NOT NULL;

CREATE TABLE audit_entries (
    id uuid NOT NULL PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text COLLATE "C" NOT NULL,
    key_id uuid,
    action text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    details text NOT NULL
);
CREATE INDEX audit_entries_action ON audit_entries (action, id);
CREATE INDEX audit_entries_actor ON audit_entries (actor, id);
CREATE INDEX audit_entries_at ON audit_entries (at);

CREATE TABLE spokes (
    id uuid NOT NULL PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    owner text COLLATE "C" NOT NULL,
    spoke_type text COLLATE "C" NOT NULL,
    instance_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    connection_id uuid NOT NULL,
    hub_id uuid NOT NULL,
    connected boolean NOT NULL,
    draining boolean NOT NULL,
    version text COLLATE "C",
    project_id text COLLATE "C",
    host_info text,
    labels text,
    load double precision,
    agents text,
    exposure text COLLATE "C" NOT NULL,
    policy text COLLATE "C" NOT NULL,
    max_in_flight integer,
    connected_at timestamptz NOT NULL,
    disconnected_at timestamptz,
    last_heartbeat_at timestamptz
);
CREATE INDEX spokes_connected ON spokes (hub_id) WHERE connected;

-- A definition never changes: the same (operation_id, version) is the same text for good.
CREATE TABLE definitions (
    id uuid NOT NULL PRIMARY KEY,
    operation_id text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    spec text NOT NULL,
    UNIQUE (operation_id, version)
);

CREATE TABLE registrations (
    spoke_id uuid NOT NULL REFERENCES spokes (id),
    definition_id uuid NOT NULL REFERENCES definitions (id),
    local text COLLATE "C" NOT NULL,
    active boolean NOT NULL,
    PRIMARY KEY (spoke_id, definition_id)
);
CREATE INDEX registrations_definition ON registrations (definition_id);

CREATE TABLE calls (
    call_id uuid NOT NULL PRIMARY KEY,
    root uuid NOT NULL,
    parent uuid,
    depth integer NOT NULL,
    status text COLLATE "C" NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    completed_at timestamptz,
    cost bigint NOT NULL,
    items bigint NOT NULL,
    attempts integer NOT NULL,
    version text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    principal text COLLATE "C" NOT NULL,
    spoke text COLLATE "C",
    hub_id uuid NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C",
    input_size bigint NOT NULL,
    input_hash text COLLATE "C",
    output_size bigint NOT NULL,
    output_hash text COLLATE "C",
    error text,
    input text,
    output text
);
CREATE INDEX calls_tree ON calls (root, depth, call_id);
CREATE INDEX calls_operation ON calls (operation_id, call_id);
CREATE INDEX calls_principal ON calls (principal, call_id);
CREATE INDEX calls_spoke ON calls (spoke, call_id) WHERE spoke IS NOT NULL;
CREATE INDEX calls_started ON calls (started_at, call_id);
-- The few rows a crash leaves open, and the few that went wrong; most rows are in neither, so these cost next to nothing.
CREATE INDEX calls_live ON calls (call_id) WHERE status IN ('pending', 'running');
CREATE INDEX calls_unhappy ON calls (status, call_id) WHERE status IN ('failed', 'aborted');

-- No foreign keys: an edge may be written before its target, and retention deletes in chunks.
CREATE TABLE call_edges (
    source uuid NOT NULL,
    target uuid NOT NULL,
    kind text COLLATE "C" NOT NULL,
    PRIMARY KEY (source, target, kind)
);
CREATE INDEX call_edges_target ON call_edges (target);

CREATE TABLE idempotency_keys (
    principal text COLLATE "C" NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    call_id uuid NOT NULL,
    input_hash bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    outcome text,
    PRIMARY KEY (principal, operation_id, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CREATE TABLE events (
    seq bigint NOT NULL PRIMARY KEY,
    topic text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    root uuid,
    payload text NOT NULL
);
CREATE INDEX events_root ON events (root, seq) WHERE root IS NOT NULL;

CREATE TABLE settings (
    key text COLLATE "C" NOT NULL PRIMARY KEY,
    value text NOT NULL
);

-- One row: the last position given. A writer takes positions by updating it and holds its lock until it has committed, so
-- positions are dense, in commit order, and given again after a rollback. A sequence is none of that.
CREATE TABLE event_position (
    one boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    last bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO event_position (last) VALUES (0);
