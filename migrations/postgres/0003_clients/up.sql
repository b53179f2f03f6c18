-- Services outside that the hub uses; what they are reached with is in `secrets`.
CREATE TABLE clients (
    id uuid NOT NULL PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    kind text COLLATE "C" NOT NULL,
    config text NOT NULL,
    scopes text,
    enabled boolean NOT NULL,
    revision bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    state text COLLATE "C" NOT NULL,
    reason text COLLATE "C",
    state_at timestamptz,
    operations integer NOT NULL
);

-- Encrypted, each under a key of its own that is derived from a version of the keyring, which is not here.
CREATE TABLE secrets (
    id uuid NOT NULL PRIMARY KEY,
    client_id uuid NOT NULL REFERENCES clients (id),
    name text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    salt bytea NOT NULL,
    nonce bytea NOT NULL,
    ciphertext bytea NOT NULL,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz,
    UNIQUE (client_id, name)
);
CREATE INDEX secrets_version ON secrets (version, id);
