-- The audit trail: a file of its own, so that neither reading nor the page waits for the other. Nothing is changed in it,
-- and only its beginning is ever removed, as far as the anchor says.

CREATE TABLE record (
    number   INTEGER PRIMARY KEY,                -- 1, 2, 3, ... without a gap
    previous TEXT NOT NULL,                      -- SHA-256 of the record before it; of appliance.audit.digest
    content  TEXT NOT NULL                       -- JSON of appliance.audit.Record
) STRICT;
CREATE TRIGGER record_changed BEFORE UPDATE ON record BEGIN SELECT raise(ABORT, 'the audit trail is never changed'); END;
CREATE TRIGGER record_removed BEFORE DELETE ON record WHEN old.number > ifnull((SELECT number FROM anchor), 0)
BEGIN SELECT raise(ABORT, 'the audit trail is never changed'); END;

CREATE TABLE head (                              -- of the last record, in one row: whoever cuts the end can't sign it
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    number    INTEGER NOT NULL,
    digest    TEXT NOT NULL,
    signature TEXT NOT NULL                      -- by the device's key, of appliance.audit.signed
) STRICT;

CREATE TABLE anchor (                            -- of the last record that retention has removed, in one row
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    number    INTEGER NOT NULL,
    digest    TEXT NOT NULL,
    signature TEXT NOT NULL                      -- by the device's key, of appliance.audit.anchored
) STRICT;
CREATE VIEW kept AS SELECT * FROM record WHERE number > ifnull((SELECT number FROM anchor), 0);

CREATE TABLE elsewhere (                         -- the number of the last record that is for certain somewhere else, too
    place  TEXT PRIMARY KEY CHECK (place IN ('collector', 'file')),
    number INTEGER NOT NULL
) STRICT;
