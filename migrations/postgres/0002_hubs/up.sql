-- Hubs that live, by a lease each renews; a lease that ran out is that of a dead hub.
CREATE TABLE hubs (
    id uuid NOT NULL PRIMARY KEY,
    address text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    draining boolean NOT NULL
);

-- What one hub at a time may do, such as retention.
CREATE TABLE leases (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    holder uuid NOT NULL,
    expires_at timestamptz NOT NULL
);

-- The last batch of each writer, so that one whose commit went unanswered is not written twice.
CREATE TABLE applied_batches (
    writer uuid NOT NULL PRIMARY KEY,
    number bigint NOT NULL,
    first_seq bigint NOT NULL,
    written_at timestamptz NOT NULL
);

-- How far an import into this database has come, one row a table; empty before and after.
CREATE TABLE imports (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    place text,
    copied bigint NOT NULL,
    finished boolean NOT NULL
);

-- Whose hub is dead is asked by hub.
CREATE INDEX calls_live_hub ON calls (hub_id) WHERE status IN ('pending', 'running');
