-- Ids are UUIDv7 as 16-byte blobs, times UTC microseconds, JSON columns the text as it arrived, money integer micro-dollars.
-- Large columns come last in their table: SQLite walks a row from its start, so the small ones are read without them.

CREATE TABLE accounts (
    id         BLOB    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    kind       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    id           BLOB    NOT NULL PRIMARY KEY,
    public_id    TEXT    NOT NULL UNIQUE,
    hash         BLOB    NOT NULL CHECK (length(hash) = 32),
    principal    TEXT    NOT NULL,
    account_id   BLOB    NOT NULL REFERENCES accounts (id),
    name         TEXT    NOT NULL,
    scopes       TEXT    NOT NULL,
    resources    TEXT,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    rotated_to   BLOB    REFERENCES api_keys (id),
    last_used_at INTEGER
) STRICT;
CREATE INDEX api_keys_newest ON api_keys (created_at, id);
CREATE INDEX api_keys_account ON api_keys (account_id);
CREATE INDEX api_keys_rotated ON api_keys (rotated_to) WHERE rotated_to IS NOT NULL;

CREATE TABLE audit_entries (
    id      BLOB    NOT NULL PRIMARY KEY,
    at      INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    key_id  BLOB,
    action  TEXT    NOT NULL,
    target  TEXT    NOT NULL,
    details TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_entries_action ON audit_entries (action, id);
CREATE INDEX audit_entries_actor ON audit_entries (actor, id);
CREATE INDEX audit_entries_at ON audit_entries (at);

CREATE TABLE spokes (
    id                BLOB    NOT NULL PRIMARY KEY,
    name              TEXT    NOT NULL UNIQUE,
    owner             TEXT    NOT NULL,
    spoke_type        TEXT    NOT NULL,
    instance_id       BLOB    NOT NULL,
    started_at        INTEGER NOT NULL,
    connection_id     BLOB    NOT NULL,
    hub_id            BLOB    NOT NULL,
    connected         INTEGER NOT NULL CHECK (connected IN (0, 1)),
    draining          INTEGER NOT NULL CHECK (draining IN (0, 1)),
    version           TEXT,
    project_id        TEXT,
    host_info         TEXT,
    labels            TEXT,
    load              REAL,
    agents            TEXT,
    exposure          TEXT    NOT NULL,
    policy            TEXT    NOT NULL,
    max_in_flight     INTEGER,
    connected_at      INTEGER NOT NULL,
    disconnected_at   INTEGER,
    last_heartbeat_at INTEGER
) STRICT;
CREATE INDEX spokes_connected ON spokes (hub_id) WHERE connected = 1;

-- A definition never changes: the same (operation_id, version) is the same text for good.
CREATE TABLE definitions (
    id           BLOB NOT NULL PRIMARY KEY,
    operation_id TEXT NOT NULL,
    version      TEXT NOT NULL,
    spec         TEXT NOT NULL,
    UNIQUE (operation_id, version)
) STRICT;

CREATE TABLE registrations (
    spoke_id      BLOB    NOT NULL REFERENCES spokes (id),
    definition_id BLOB    NOT NULL REFERENCES definitions (id),
    local         TEXT    NOT NULL,
    active        INTEGER NOT NULL CHECK (active IN (0, 1)),
    PRIMARY KEY (spoke_id, definition_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX registrations_definition ON registrations (definition_id);

CREATE TABLE calls (
    call_id         BLOB    NOT NULL PRIMARY KEY,
    root            BLOB    NOT NULL,
    parent          BLOB,
    depth           INTEGER NOT NULL,
    status          TEXT    NOT NULL,
    operation_id    TEXT    NOT NULL,
    started_at      INTEGER NOT NULL,
    completed_at    INTEGER,
    cost            INTEGER NOT NULL,
    items           INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    version         TEXT    NOT NULL,
    kind            TEXT    NOT NULL,
    principal       TEXT    NOT NULL,
    spoke           TEXT,
    hub_id          BLOB    NOT NULL,
    request_id      TEXT    NOT NULL,
    idempotency_key TEXT,
    input_size      INTEGER NOT NULL,
    input_hash      TEXT,
    output_size     INTEGER NOT NULL,
    output_hash     TEXT,
    error           TEXT,
    input           TEXT,
    output          TEXT
) STRICT;
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
    source BLOB NOT NULL,
    target BLOB NOT NULL,
    kind   TEXT NOT NULL,
    PRIMARY KEY (source, target, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX call_edges_target ON call_edges (target);

CREATE TABLE idempotency_keys (
    principal    TEXT    NOT NULL,
    operation_id TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    call_id      BLOB    NOT NULL,
    input_hash   BLOB    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    outcome      TEXT,
    PRIMARY KEY (principal, operation_id, key)
) STRICT;
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- AUTOINCREMENT: a position is never given twice, even after retention removed the newest rows.
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    topic   TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    root    BLOB,
    payload TEXT    NOT NULL
) STRICT;
CREATE INDEX events_root ON events (root, seq) WHERE root IS NOT NULL;

CREATE TABLE settings (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
