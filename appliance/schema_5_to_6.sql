-- A ledger of version 5 becomes what schema.sql makes.

CREATE TABLE drift_study (                       -- one row a study and package: what appliance.drift saw of it
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    package     TEXT NOT NULL,                   -- SHA-256 of the package file
    study       BLOB NOT NULL,                   -- 8 bytes of the SHA-256 of its Study Instance UID: each counts once
    instance_id INTEGER NOT NULL,                -- the image that stands for it
    at          REAL NOT NULL,
    bins        BLOB NOT NULL,                   -- one byte for each of appliance.drift.streams.STREAMS
    UNIQUE (package, study)
) STRICT;

CREATE TABLE drift_day (                         -- the same by day, kept when the rows are gone
    package  TEXT NOT NULL,
    day      TEXT NOT NULL,                      -- ISO 8601, local
    studies  INTEGER NOT NULL,
    counts   BLOB NOT NULL,                      -- appliance.drift.store.pack of (streams, bins)
    validated REAL,                              -- the highest natural logarithm of the mean martingale against the
    site     REAL,                               -- package's reference, and against the site's baseline
    PRIMARY KEY (package, day)
) STRICT;

CREATE TABLE drift_category (                    -- numbers of names that headers have; they never change
    stream TEXT NOT NULL,
    name   TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (stream, name)
) STRICT;

CREATE TABLE drift_package (                     -- packages whose studies were watched, and how far the site is learned
    package     TEXT PRIMARY KEY,
    name        TEXT NOT NULL,                   -- id and version
    first_at    REAL NOT NULL,
    reference   BLOB NOT NULL,                   -- pack of the package's counts; all 0 where it has none
    seed        INTEGER NOT NULL,                -- of the chance that breaks ties
    began_after INTEGER NOT NULL,                -- drift_study.id: later studies make the site's baseline
    accepted_at REAL,                            -- when that was taken as usual; NULL while it is learned
    accepted_by TEXT NOT NULL DEFAULT '',
    baseline    BLOB,                            -- pack of its counts
    studies     INTEGER NOT NULL DEFAULT 0,      -- of the baseline
    dependent   TEXT NOT NULL DEFAULT '{}'       -- JSON: stream -> p-value of the test that its studies are independent
) STRICT;

CREATE TABLE drift_monitor (                     -- a watch as it was after a study; what came later is counted again
    package TEXT NOT NULL,
    against TEXT NOT NULL,                       -- validated | site
    changes INTEGER NOT NULL,                    -- how often it was begun anew, by whoever
    after   INTEGER NOT NULL,                    -- drift_study.id
    begun   INTEGER NOT NULL,                    -- drift_study.id after which it began
    state   BLOB,                                -- appliance.drift.monitor; NULL: it does not watch
    PRIMARY KEY (package, against)
) STRICT;

CREATE TABLE drift_alarm (
    id              INTEGER PRIMARY KEY,
    package         TEXT NOT NULL,
    against         TEXT NOT NULL,               -- validated | site
    kind            TEXT NOT NULL,               -- alarm | warning | confidence
    raised_at       REAL NOT NULL,
    study           INTEGER NOT NULL,            -- drift_study.id at which it was raised
    evidence        REAL NOT NULL,
    cause           TEXT NOT NULL,               -- JSON of appliance.drift.cause.Cause
    acknowledged_at REAL,
    acknowledged_by TEXT NOT NULL DEFAULT '',
    why             TEXT NOT NULL DEFAULT '',
    outcome         TEXT NOT NULL DEFAULT ''     -- watch | baseline | rest
) STRICT;
CREATE INDEX drift_alarm_open ON drift_alarm (id) WHERE acknowledged_at IS NULL;

CREATE TABLE drift_event (                       -- what was done to it, and by whom
    id     INTEGER PRIMARY KEY,
    at     REAL NOT NULL,
    who    TEXT NOT NULL,                        -- '' for the device itself
    what   TEXT NOT NULL
) STRICT;

CREATE TABLE drift_count (                       -- what could not be counted as a study, and why
    name    TEXT PRIMARY KEY,
    n       INTEGER NOT NULL,
    last_at REAL NOT NULL,
    last    TEXT NOT NULL DEFAULT ''
) STRICT;
