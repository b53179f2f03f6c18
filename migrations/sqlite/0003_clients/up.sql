-- Services outside that the hub uses; what they are reached with is in `secrets`.
CREATE TABLE clients (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    config TEXT NOT NULL,
    scopes TEXT,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    state_at INTEGER,
    operations INTEGER NOT NULL
) STRICT;

-- Encrypted, each under a key of its own that is derived from a version of the keyring, which is not here.
CREATE TABLE secrets (
    id BLOB NOT NULL PRIMARY KEY,
    client_id BLOB NOT NULL REFERENCES clients (id),
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    salt BLOB NOT NULL,
    nonce BLOB NOT NULL,
    ciphertext BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    rotated_at INTEGER,
    UNIQUE (client_id, name)
) STRICT;
CREATE INDEX secrets_version ON secrets (version, id);
