-- A ledger of version 5 becomes what schema.sql makes: accounts, sessions, tokens.

CREATE TABLE account (                           -- who may log in to the page; none is ever removed, since others name it
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE COLLATE NOCASE,
    role          TEXT NOT NULL CHECK (role IN ('viewer', 'clinician', 'engineer', 'administrator')),
    password      TEXT NOT NULL,                 -- scrypt, with its parameters and its salt
    created_at    REAL NOT NULL,
    disabled_at   REAL,                          -- since when it may not log in
    last_login_at REAL
) STRICT;

CREATE TABLE session (                           -- of a browser, from the login to its end
    digest     TEXT PRIMARY KEY,                 -- SHA-256 of what the browser's cookie says
    account_id INTEGER NOT NULL REFERENCES account (id),
    address    TEXT NOT NULL,
    begun_at   REAL NOT NULL,
    used_at    REAL NOT NULL                     -- by a person, to a minute
) STRICT;
CREATE INDEX session_by_account ON session (account_id);

CREATE TABLE login_failure (                     -- tries without the right password, one after another
    kind         TEXT NOT NULL CHECK (kind IN ('account', 'address', 'browser')),
    subject      TEXT NOT NULL,                  -- a name, whether or not there is such an account; an address; a mark
    failures     INTEGER NOT NULL,
    last_at      REAL NOT NULL,
    locked_until REAL NOT NULL,
    PRIMARY KEY (kind, subject)
) STRICT;
CREATE INDEX login_failure_by_time ON login_failure (last_at);

CREATE TABLE enrolment (                         -- the one-time code that makes the first account; one row at most
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    digest  TEXT NOT NULL,                       -- SHA-256
    made_at REAL NOT NULL
) STRICT;

CREATE TABLE token (                             -- with which systems use the page's interfaces
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL UNIQUE,             -- SHA-256
    scopes     TEXT NOT NULL,                    -- JSON list of rights
    made_by    TEXT NOT NULL,
    made_at    REAL NOT NULL,
    expires_at REAL,                             -- NULL: never
    used_at    REAL,                             -- to a minute
    revoked_at REAL
) STRICT;
CREATE UNIQUE INDEX token_by_name ON token (name) WHERE revoked_at IS NULL;
-- A ledger of version 5 becomes what schema.sql makes: the device's history.

CREATE INDEX instance_by_study ON instance (study_instance_uid) WHERE study_instance_uid <> '';

CREATE TABLE history (                           -- how the device was; appliance.history says how long each is kept
    seconds INTEGER NOT NULL,                    -- how long the period is: 60, 3600 or 86400
    at      INTEGER NOT NULL,                    -- when it began
    content TEXT NOT NULL,                       -- JSON of appliance.history.Period
    PRIMARY KEY (seconds, at)
) STRICT, WITHOUT ROWID;

CREATE TABLE history_mark (                      -- one row: the totals up to which event
    event_id INTEGER NOT NULL,
    content  TEXT NOT NULL                       -- JSON of appliance.history.Totals
) STRICT;
INSERT INTO history_mark SELECT coalesce(max(id), 0), '{}' FROM event;
