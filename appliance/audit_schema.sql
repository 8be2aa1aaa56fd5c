-- The audit trail: a file of its own, so that neither reading nor the page waits for the other. Nothing is changed in it.

CREATE TABLE record (
    number   INTEGER PRIMARY KEY,                -- 1, 2, 3, ... without a gap
    previous TEXT NOT NULL,                      -- SHA-256 of the record before it; of appliance.audit.digest
    content  TEXT NOT NULL                       -- JSON of appliance.audit.Record
) STRICT;
CREATE TRIGGER record_changed BEFORE UPDATE ON record BEGIN SELECT raise(ABORT, 'the audit trail is never changed'); END;
CREATE TRIGGER record_removed BEFORE DELETE ON record BEGIN SELECT raise(ABORT, 'the audit trail is never changed'); END;

CREATE TABLE head (                              -- of the last record, in one row: whoever cuts the end can't sign it
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    number    INTEGER NOT NULL,
    digest    TEXT NOT NULL,
    signature TEXT NOT NULL                      -- by the device's key, of appliance.audit.signed
) STRICT;

CREATE TABLE collector (                         -- what the syslog collector has for certain, in one row
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL
) STRICT;
