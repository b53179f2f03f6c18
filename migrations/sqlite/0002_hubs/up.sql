-- Hubs that live, by a lease each renews; a lease that ran out is that of a dead hub.
CREATE TABLE hubs (
    id BLOB NOT NULL PRIMARY KEY,
    address TEXT NOT NULL,
    version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    renewed_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    draining INTEGER NOT NULL CHECK (draining IN (0, 1))
) STRICT;

-- What one hub at a time may do, such as retention.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder BLOB NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- The last batch of each writer, so that one whose commit went unanswered is not written twice.
CREATE TABLE applied_batches (
    writer BLOB NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    written_at INTEGER NOT NULL
) STRICT;

-- How far an import into this database has come, one row a table; empty before and after.
CREATE TABLE imports (
    name TEXT NOT NULL PRIMARY KEY,
    place TEXT,
    copied INTEGER NOT NULL,
    finished INTEGER NOT NULL CHECK (finished IN (0, 1))
) STRICT;

-- Whose hub is dead is asked by hub.
CREATE INDEX calls_live_hub ON calls (hub_id) WHERE status IN ('pending', 'running');
