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
-- A ledger of version 5 becomes what schema.sql makes: a worklist that is filtered and searched, readers' assessments.

ALTER TABLE instance ADD COLUMN accession_number   TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN issuer_of_patient_id TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN outcome            TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN assessed_at        REAL;
ALTER TABLE instance ADD COLUMN facet              TEXT GENERATED ALWAYS AS (CASE WHEN lead_id IS NULL OR lead_id = id THEN (CASE WHEN reading_rank < 5 AND reviewed_at IS NULL THEN reading_rank ELSE 5 END) || '/' || state || '/' || outcome || '/' || (reviewed_at IS NULL) || '/' || (assessed_at IS NULL) || '/' || modality END) VIRTUAL;
UPDATE instance SET outcome = (SELECT CASE WHEN urgent THEN 'urgent' WHEN EXISTS (SELECT 1 FROM json_each(findings) WHERE json_extract(value, '$.positive')) THEN 'positive' WHEN EXISTS (SELECT 1 FROM json_each(findings) WHERE json_extract(value, '$.unsure')) THEN 'indeterminate' WHEN findings <> '[]' THEN 'negative' ELSE 'outlined' END FROM result WHERE instance_id = instance.id) WHERE id IN (SELECT instance_id FROM result);
CREATE INDEX instance_listed ON instance (facet, received_at DESC, id DESC) WHERE facet IS NOT NULL;
CREATE INDEX instance_listed_by_sender ON instance (ae_title, facet, received_at DESC, id DESC) WHERE facet IS NOT NULL AND ae_title <> '';
CREATE INDEX instance_by_accession ON instance (accession_number COLLATE NOCASE) WHERE accession_number <> '';
CREATE INDEX instance_by_patient ON instance (patient_id COLLATE NOCASE, received_at DESC) WHERE patient_id <> '' AND facet IS NOT NULL;
-- The words of patients' names; of images that are read by themselves, and of leads.
CREATE VIRTUAL TABLE instance_named USING fts5(patient_name, content = 'instance', content_rowid = 'id', detail = 'none', prefix = '1 2 3 4 5 6', tokenize = 'unicode61 remove_diacritics 2');
INSERT INTO instance_named (rowid, patient_name) SELECT id, patient_name FROM instance WHERE patient_name <> '' AND facet IS NOT NULL;

CREATE TABLE assessment (                        -- what a reader said of a finding or a segment; a later one supersedes an earlier, and both stay
    id          INTEGER PRIMARY KEY,
    instance_id INTEGER NOT NULL REFERENCES result (instance_id),
    subject     TEXT NOT NULL CHECK (subject IN ('finding', 'segment')),
    label       TEXT NOT NULL,                   -- of the finding or the segment
    code        TEXT NOT NULL,                   -- JSON of Code: what it was looked for as
    said        TEXT NOT NULL,                   -- what the result said of it: present | absent | indeterminate, or its size
    verdict     TEXT NOT NULL CHECK (verdict IN ('agree', 'disagree', 'amend')),
    reason      TEXT NOT NULL,                   -- a code of appliance.assessing; '' of an agreement
    comment     TEXT NOT NULL DEFAULT '',
    person      TEXT NOT NULL,                   -- the account; '' where no login is asked for
    made_at     REAL NOT NULL,
    package     TEXT NOT NULL,                   -- id and version
    object_uid  TEXT NOT NULL DEFAULT '',        -- SOP Instance UID of the result object that said it; '' where none was made
    supersedes  INTEGER UNIQUE REFERENCES assessment (id)
) STRICT;
CREATE INDEX assessment_by_instance ON assessment (instance_id, id);
CREATE TRIGGER assessment_stays BEFORE UPDATE ON assessment BEGIN SELECT raise(ABORT, 'an assessment is not changed: make a later one'); END;
CREATE TRIGGER assessment_is_kept BEFORE DELETE ON assessment BEGIN SELECT raise(ABORT, 'an assessment is not removed: make a later one'); END;
