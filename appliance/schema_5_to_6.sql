-- A ledger of version 5 becomes what schema.sql makes: accounts, history, a worklist that is searched, assessments, drift,
-- results that are withheld, diagnoses.

-- SQLite changes no constraint of a table; this one loses nothing that is there (https://sqlite.org/lang_altertable.html,
-- section 8).
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, '''failed'', ''quarantined'')', '''failed'', ''quarantined'', ''withheld'')') WHERE type = 'table' AND name = 'instance';
PRAGMA writable_schema = RESET;
CREATE INDEX instance_withheld ON instance (id) WHERE state = 'withheld';
INSERT INTO tally VALUES ('withheld', 0);
CREATE INDEX event_unmade ON event (at) WHERE what = 'unmade';

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

CREATE TABLE enrolment (                         -- one-time codes with which people make their accounts
    name       TEXT PRIMARY KEY COLLATE NOCASE,  -- whose; '' for the first account, which takes any name
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'clinician', 'engineer', 'administrator')),
    digest     TEXT NOT NULL UNIQUE,             -- SHA-256
    expires_at REAL                              -- NULL: as soon as there is an account
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

ALTER TABLE instance ADD COLUMN accession_number   TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN issuer_of_patient_id TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN series_instance_uid TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN outcome            TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN assessed_at        REAL;
ALTER TABLE instance ADD COLUMN facet              TEXT GENERATED ALWAYS AS (CASE WHEN lead_id IS NULL OR lead_id = id THEN (CASE WHEN reading_rank < 5 AND reviewed_at IS NULL THEN reading_rank ELSE 5 END) || '/' || state || '/' || outcome || '/' || (reviewed_at IS NULL) || '/' || (assessed_at IS NULL) || '/' || modality END) VIRTUAL;
UPDATE instance SET outcome = (SELECT CASE WHEN urgent THEN 'urgent' WHEN EXISTS (SELECT 1 FROM json_each(findings) WHERE json_extract(value, '$.positive')) THEN 'positive' WHEN EXISTS (SELECT 1 FROM json_each(findings) WHERE json_extract(value, '$.unsure')) THEN 'indeterminate' WHEN findings <> '[]' THEN 'negative' ELSE 'outlined' END FROM result WHERE instance_id = instance.id) WHERE id IN (SELECT instance_id FROM result);
CREATE INDEX instance_listed ON instance (facet, received_at DESC, id DESC) WHERE facet IS NOT NULL;
CREATE INDEX instance_listed_by_sender ON instance (ae_title, facet, received_at DESC, id DESC) WHERE facet IS NOT NULL AND ae_title <> '';
CREATE INDEX instance_by_accession ON instance (accession_number COLLATE NOCASE) WHERE accession_number <> '';
CREATE INDEX instance_apart_from_series ON instance (series_instance_uid) WHERE lead_id IS NULL AND series_instance_uid <> '';
CREATE INDEX instance_unread_of_transfer ON instance (transfer_id) WHERE state IN ('rejected', 'quarantined') AND study_instance_uid = '';
CREATE INDEX instance_by_patient ON instance (patient_id COLLATE NOCASE, received_at DESC) WHERE patient_id <> '' AND facet IS NOT NULL;

ALTER TABLE series ADD COLUMN missing TEXT NOT NULL DEFAULT '';

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

CREATE TABLE assessment_due (                    -- images of which a reader has said something that destinations are to get
    instance_id INTEGER PRIMARY KEY REFERENCES result (instance_id),
    at          REAL NOT NULL                    -- when it was said, or when to try it again
) STRICT;

CREATE TABLE assessment_document (               -- what was made of a reader's assessments; its object is not one of the result
    object_id INTEGER PRIMARY KEY REFERENCES object (id),
    person    TEXT NOT NULL,
    said      TEXT NOT NULL                      -- JSON list of the assessments' numbers
) STRICT;

ALTER TABLE object ADD COLUMN of_result INTEGER NOT NULL DEFAULT 1;

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

CREATE TABLE safe_mode (                         -- why results are marked or withheld: in force while left_at is NULL
    id         INTEGER PRIMARY KEY,
    package    TEXT NOT NULL,                    -- SHA-256 of the package file that it is about; '' of all
    level      TEXT NOT NULL CHECK (level IN ('banner', 'review', 'withheld')),
    kind       TEXT NOT NULL,                    -- a key of [safe_mode], or by_hand
    source     INTEGER,                          -- the drift alarm or the retraining ticket; NULL by hand
    why        TEXT NOT NULL,
    entered_at REAL NOT NULL,
    entered_by TEXT NOT NULL,                    -- '' for the device itself
    left_at    REAL,
    left_by    TEXT NOT NULL DEFAULT '',
    left_why   TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX safe_mode_by_source ON safe_mode (kind, source) WHERE source IS NOT NULL;
CREATE INDEX safe_mode_in_force ON safe_mode (id) WHERE left_at IS NULL;
CREATE TRIGGER safe_mode_is_kept BEFORE DELETE ON safe_mode BEGIN SELECT raise(ABORT, 'safe mode is left, not removed'); END;

CREATE TABLE released (                          -- images whose results are no longer withheld: who has said so, and why
    instance_id INTEGER PRIMARY KEY REFERENCES instance (id),
    at          REAL NOT NULL,
    by          TEXT NOT NULL,
    why         TEXT NOT NULL
) STRICT;

CREATE TABLE diagnosis (                         -- what a finding turned out to be, as others say; never changed
    id                 INTEGER PRIMARY KEY,
    digest             BLOB NOT NULL UNIQUE,     -- SHA-256 of what it says: the same again is a repetition
    import_id          INTEGER NOT NULL REFERENCES diagnosis_import (id),
    known_at           REAL NOT NULL,            -- when this device learned it
    study_instance_uid TEXT NOT NULL,            -- '' where only the accession number is known
    accession_number   TEXT NOT NULL,
    finding            TEXT NOT NULL,            -- label of the finding
    present            INTEGER NOT NULL,
    corrected          INTEGER NOT NULL,         -- 1: it takes the place of what was said before
    diagnosed_at       REAL                      -- NULL: not stated
) STRICT;
CREATE INDEX diagnosis_by_study ON diagnosis (study_instance_uid) WHERE study_instance_uid <> '';
CREATE INDEX diagnosis_by_accession ON diagnosis (accession_number) WHERE accession_number <> '';

CREATE TABLE diagnosis_import (                  -- a file, or what a sender has brought by HL7 on a day
    id        INTEGER PRIMARY KEY,
    at        REAL NOT NULL,                     -- of a sender's messages the latest
    by        TEXT NOT NULL,                     -- who; of messages the sender's address
    form      TEXT NOT NULL CHECK (form IN ('csv', 'hl7', 'fhir')),
    day       TEXT NOT NULL DEFAULT '',          -- by the device's clock; '' of a file
    messages  INTEGER NOT NULL DEFAULT 0,        -- 0 of a file
    taken     INTEGER NOT NULL DEFAULT 0,
    repeated  INTEGER NOT NULL DEFAULT 0,
    others    INTEGER NOT NULL,                  -- about other findings than models look for
    not_final INTEGER NOT NULL,
    faulty    INTEGER NOT NULL                   -- statements of a file that can't be read; messages that were refused
) STRICT;
CREATE UNIQUE INDEX diagnosis_import_of_day ON diagnosis_import (by, day) WHERE day <> '';

CREATE TABLE retraining_ticket (                 -- a model was measured to be worse than its floor; it retrains nothing
    id        INTEGER PRIMARY KEY,
    package   TEXT NOT NULL,                     -- SHA-256 of the package file
    name      TEXT NOT NULL,                     -- id and version
    finding   TEXT NOT NULL,
    measure   TEXT NOT NULL CHECK (measure IN ('sensitivity', 'specificity')),
    opened_at REAL NOT NULL,
    evidence  TEXT NOT NULL,                     -- JSON of appliance.sequential.Evidence
    closed_at REAL,
    closed_by TEXT NOT NULL DEFAULT '',
    why       TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX retraining_ticket_open ON retraining_ticket (package, finding, measure) WHERE closed_at IS NULL;

CREATE TABLE installed_package (                 -- package files below the data folder, each by a trusted key when it came
    sha256       TEXT PRIMARY KEY,               -- of the file
    model        TEXT NOT NULL,                  -- the manifest's id
    version      TEXT NOT NULL,
    file         TEXT NOT NULL,                  -- below the packages' folder
    signed_by    TEXT NOT NULL,                  -- id of the key
    installed_at REAL NOT NULL,
    installed_by TEXT NOT NULL
) STRICT;

CREATE TABLE package_choice (                    -- which package reads: the latest row of each model; without one, that of the configuration
    id         INTEGER PRIMARY KEY,
    model      TEXT NOT NULL,                    -- the manifest's id
    version    TEXT NOT NULL,
    sha256     TEXT NOT NULL,                    -- of the package file; '': none reads
    former     TEXT NOT NULL,                    -- of the one that it took over from; '' where there was none
    kind       TEXT NOT NULL CHECK (kind IN ('switch', 'promotion', 'rollback', 'fallback')),  -- fallback: by the device itself
    chosen_at  REAL NOT NULL,
    chosen_by  TEXT NOT NULL,
    why        TEXT NOT NULL,
    cases      TEXT NOT NULL,                    -- JSON of appliance.regression.Replayed: what must not regress, and did or not
    overridden TEXT NOT NULL DEFAULT ''          -- the reason why it was switched although a case regressed
) STRICT;
CREATE INDEX package_choice_by_model ON package_choice (model, id);
CREATE TRIGGER package_choice_stays BEFORE UPDATE ON package_choice BEGIN SELECT raise(ABORT, 'a choice is not changed: make a later one'); END;
CREATE TRIGGER package_choice_is_kept BEFORE DELETE ON package_choice BEGIN SELECT raise(ABORT, 'a choice is not removed: make a later one'); END;

CREATE TABLE regression_case (                   -- results that no later package may lose
    id          INTEGER PRIMARY KEY,
    model       TEXT NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES result (instance_id),
    expected    TEXT NOT NULL,                   -- JSON of appliance.regression.Expected
    added_at    REAL NOT NULL,
    added_by    TEXT NOT NULL,
    why         TEXT NOT NULL,
    UNIQUE (model, instance_id)
) STRICT;
CREATE INDEX regression_case_by_instance ON regression_case (instance_id);

CREATE TABLE shadow (                            -- a package that reads the same images as the one in force, for comparison only
    id       INTEGER PRIMARY KEY,
    model    TEXT NOT NULL,                      -- the manifest's id
    version  TEXT NOT NULL,
    sha256   TEXT NOT NULL,                      -- of the package in shadow
    against  TEXT NOT NULL,                      -- of the one that is in force
    began_at REAL NOT NULL,
    began_by TEXT NOT NULL,
    why      TEXT NOT NULL,
    ended_at REAL,                               -- NULL while it reads
    ended_by TEXT NOT NULL DEFAULT '',           -- '' for the device itself
    outcome  TEXT NOT NULL DEFAULT ''            -- why it ended, in words
) STRICT;
CREATE UNIQUE INDEX shadow_running ON shadow (ended_at IS NULL) WHERE ended_at IS NULL;

CREATE TABLE shadow_reading (                    -- one image by both packages; no result, and nothing of it is ever sent
    shadow_id      INTEGER NOT NULL REFERENCES shadow (id),
    instance_id    INTEGER NOT NULL REFERENCES result (instance_id),
    result_made_at REAL NOT NULL,
    read_at        REAL NOT NULL,
    failure        TEXT NOT NULL,                -- why there is no answer; '' where there is one
    pairs          TEXT NOT NULL DEFAULT 'null', -- JSON of appliance.shadow.comparison.Pair
    PRIMARY KEY (shadow_id, instance_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX shadow_reading_by_time ON shadow_reading (shadow_id, result_made_at);
CREATE INDEX result_by_time ON result (made_at);
CREATE TRIGGER outbox_removed AFTER DELETE ON outbox BEGIN UPDATE outbox_tally SET n = n - 1 WHERE destination = old.destination AND state = old.state; END;

CREATE TABLE commitment_item (                   -- of which sent items each of these asks; none of them is sent anew since
    transaction_uid TEXT NOT NULL REFERENCES commitment (transaction_uid) ON DELETE CASCADE,
    outbox_id       INTEGER NOT NULL REFERENCES outbox (id) ON DELETE CASCADE,
    PRIMARY KEY (transaction_uid, outbox_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX commitment_item_by_outbox ON commitment_item (outbox_id);
CREATE INDEX outbox_sent ON outbox (destination, sent_at) WHERE sent_at IS NOT NULL;
