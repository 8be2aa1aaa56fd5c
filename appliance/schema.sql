-- The ledger. Times are seconds since 1970 (UTC); JSON columns hold what appliance.result defines.

CREATE TABLE instance (
    id                 INTEGER PRIMARY KEY,
    sop_instance_uid   TEXT NOT NULL,            -- '' for a file that is not DICOM
    sop_class_uid      TEXT NOT NULL,
    digest             TEXT NOT NULL UNIQUE,     -- SHA-256 of the data set: the same one is the same instance
    file               TEXT NOT NULL,            -- below the spool
    size               INTEGER NOT NULL,
    source             TEXT NOT NULL,            -- storage_scp | stow | upload | drop_folder
    sender             TEXT NOT NULL,            -- AE title and address, or the file's name
    received_at        REAL NOT NULL,
    copies             INTEGER NOT NULL DEFAULT 1,   -- how often the same was sent
    state              TEXT NOT NULL CHECK (state IN ('received', 'claimed', 'written', 'delivered', 'rejected', 'failed', 'quarantined', 'withheld')),
    reason             TEXT NOT NULL DEFAULT '', -- why it was turned away, failed, or waits
    not_before         REAL NOT NULL DEFAULT 0,
    claimed_by         TEXT,
    lease_until        REAL,
    crashes            INTEGER NOT NULL DEFAULT 0,   -- how often it stopped the process that read it
    finished_at        REAL,
    study_instance_uid TEXT NOT NULL DEFAULT '',
    patient_id         TEXT NOT NULL DEFAULT '',
    patient_name       TEXT NOT NULL DEFAULT '',
    patient_sex        TEXT NOT NULL DEFAULT '',
    patient_age        TEXT NOT NULL DEFAULT '',
    modality           TEXT NOT NULL DEFAULT '',
    body_part          TEXT NOT NULL DEFAULT '',
    view               TEXT NOT NULL DEFAULT '',
    acquired_at        TEXT NOT NULL DEFAULT '',
    institution        TEXT NOT NULL DEFAULT '',
    ae_title           TEXT NOT NULL DEFAULT '', -- who sent it by C-STORE; '' for a file
    priority           TEXT NOT NULL DEFAULT 'routine',  -- stat | routine | low; until triage, what the sender asked for
    due_at             REAL NOT NULL DEFAULT 0,  -- its place in the queue, the earliest first; see appliance.schedule
    triaged            INTEGER NOT NULL DEFAULT 0,   -- whether priority and due_at count what the header says
    transfer_id        TEXT,                     -- what brought it; its row in transfer goes after some days
    lead_id            INTEGER REFERENCES instance (id), -- the image that stands for its series; NULL: read by itself
    parked             INTEGER NOT NULL DEFAULT 0,   -- 1: it is not in the queue itself, but its series is or will be
    place              TEXT,                     -- JSON of appliance.completeness.Slice
    reviewed_at        REAL,                     -- when somebody said that they have seen what came of it
    image_removed_at   REAL,                     -- when retention took its file from the spool
    result_removed_at  REAL,                     -- when retention took its results and pictures
    reading_rank       INTEGER NOT NULL DEFAULT 5,   -- its place among those to be read; see appliance.reading_order
    accession_number   TEXT NOT NULL DEFAULT '',
    issuer_of_patient_id TEXT NOT NULL DEFAULT '',   -- whose patient_id that is; the same ID of another issuer is another patient
    series_instance_uid TEXT NOT NULL DEFAULT '',    -- also of an image that was turned away, and is missing in its series
    outcome            TEXT NOT NULL DEFAULT '', -- of its result: urgent | positive | indeterminate | negative | outlined; '' without one
    assessed_at        REAL,                     -- when a reader first said whether the result is right
    facet              TEXT GENERATED ALWAYS AS (CASE WHEN lead_id IS NULL OR lead_id = id THEN (CASE WHEN reading_rank < 5 AND reviewed_at IS NULL THEN reading_rank ELSE 5 END) || '/' || state || '/' || outcome || '/' || (reviewed_at IS NULL) || '/' || (assessed_at IS NULL) || '/' || modality END) VIRTUAL  -- see appliance.worklist_store
) STRICT;
CREATE INDEX instance_by_uid ON instance (sop_instance_uid);
CREATE INDEX instance_by_study ON instance (study_instance_uid) WHERE study_instance_uid <> '';
CREATE INDEX instance_by_state ON instance (state);
CREATE INDEX instance_by_time ON instance (received_at);
CREATE INDEX instance_by_lead ON instance (lead_id) WHERE lead_id IS NOT NULL;
-- Of open instances only, so that they stay small however many are done.
CREATE INDEX instance_queue ON instance (due_at) WHERE state IN ('received', 'claimed') AND parked = 0;
CREATE INDEX instance_unread ON instance (received_at) WHERE state IN ('received', 'claimed') AND triaged = 0;
CREATE INDEX instance_read_first ON instance (reading_rank, id DESC) WHERE (lead_id IS NULL OR lead_id = id) AND reading_rank < 5 AND reviewed_at IS NULL;
CREATE INDEX instance_read_later ON instance (id) WHERE (lead_id IS NULL OR lead_id = id) AND (reading_rank >= 5 OR reviewed_at IS NOT NULL);
CREATE INDEX instance_in_quarantine ON instance (id) WHERE state = 'quarantined';
CREATE INDEX instance_withheld ON instance (id) WHERE state = 'withheld';
CREATE INDEX instance_with_image ON instance (finished_at) WHERE image_removed_at IS NULL;
CREATE INDEX instance_with_result ON instance (finished_at) WHERE result_removed_at IS NULL AND state = 'delivered';
CREATE INDEX instance_by_transfer ON instance (transfer_id) WHERE state IN ('received', 'claimed');
CREATE INDEX instance_listed ON instance (facet, received_at DESC, id DESC) WHERE facet IS NOT NULL;
CREATE INDEX instance_listed_by_sender ON instance (ae_title, facet, received_at DESC, id DESC) WHERE facet IS NOT NULL AND ae_title <> '';
CREATE INDEX instance_by_accession ON instance (accession_number COLLATE NOCASE) WHERE accession_number <> '';
CREATE INDEX instance_apart_from_series ON instance (series_instance_uid) WHERE lead_id IS NULL AND series_instance_uid <> '';
CREATE INDEX instance_unread_of_transfer ON instance (transfer_id) WHERE state IN ('rejected', 'quarantined') AND study_instance_uid = '';
CREATE INDEX instance_by_patient ON instance (patient_id COLLATE NOCASE, received_at DESC) WHERE patient_id <> '' AND facet IS NOT NULL;

-- The words of patients' names; of images that are read by themselves, and of leads.
CREATE VIRTUAL TABLE instance_named USING fts5(patient_name, content = 'instance', content_rowid = 'id', detail = 'none', prefix = '1 2 3 4 5 6', tokenize = 'unicode61 remove_diacritics 2');

CREATE TABLE transfer (                          -- an association, a request, or a batch of files in the drop folder
    id        TEXT PRIMARY KEY,
    source    TEXT NOT NULL,                     -- storage_scp | stow | upload | drop_folder
    opened_at REAL NOT NULL,
    ended_at  REAL,                              -- NULL while it is open
    ending    TEXT NOT NULL DEFAULT ''           -- released | aborted
) STRICT;
CREATE INDEX transfer_open ON transfer (id) WHERE ended_at IS NULL;

CREATE TABLE series (                            -- one reading of a series; a late image makes another one
    lead_id             INTEGER PRIMARY KEY REFERENCES instance (id),    -- stands for it in the queue, has its result
    series_instance_uid TEXT NOT NULL,
    study_instance_uid  TEXT NOT NULL,
    patient_id          TEXT NOT NULL,
    images              INTEGER NOT NULL,
    why                 TEXT NOT NULL,           -- why it was started, or what it waits for; see appliance.completeness
    look_again_at       REAL NOT NULL,           -- when to judge again, at the latest, whether it is complete
    started_at          REAL,                    -- NULL while it is gathered
    superseded_by       INTEGER REFERENCES series (lead_id),
    missing             TEXT NOT NULL DEFAULT '' -- evidence, when it was started, that it is not complete; '' without any
) STRICT;
CREATE INDEX series_by_uid ON series (series_instance_uid);
CREATE INDEX series_gathered ON series (look_again_at) WHERE started_at IS NULL;
CREATE INDEX series_superseded ON series (superseded_by) WHERE superseded_by IS NOT NULL;

CREATE TABLE result (
    instance_id  INTEGER PRIMARY KEY REFERENCES instance (id),
    findings     TEXT NOT NULL,                  -- JSON list of Finding
    warnings     TEXT NOT NULL,                  -- JSON list of sentences
    provenance   TEXT NOT NULL,                  -- JSON of Provenance
    seconds      TEXT NOT NULL,                  -- JSON: decode, preprocess, infer, write, total
    urgent       INTEGER NOT NULL,
    made_at      REAL NOT NULL,
    outlines     TEXT NOT NULL DEFAULT 'null'    -- JSON of Outlines: segments, and what drew them; null: none
) STRICT;

CREATE TABLE object (
    id               INTEGER PRIMARY KEY,
    instance_id      INTEGER NOT NULL REFERENCES instance (id),
    kind             TEXT NOT NULL,              -- structured_report | secondary_capture | segmentation
    sop_class_uid    TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL UNIQUE,
    path             TEXT NOT NULL,              -- below the results folder
    digest           TEXT NOT NULL DEFAULT '',   -- SHA-256 of the file; '' of one that was written before version 4
    of_result        INTEGER NOT NULL DEFAULT 1, -- 0: of what a reader said of it; the image's state does not wait for that
    UNIQUE (instance_id, kind)
) STRICT;

CREATE TABLE outbox (
    id              INTEGER PRIMARY KEY,
    object_id       INTEGER NOT NULL REFERENCES object (id),
    destination     TEXT NOT NULL,
    state           TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'committed', 'undelivered')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_at REAL NOT NULL,               -- to send it; of one that is sent, to ask whether it is committed
    last_error      TEXT NOT NULL DEFAULT '',
    sent_at         REAL,
    queued_at       REAL NOT NULL DEFAULT 0,     -- since when it is tried
    to_commit       INTEGER NOT NULL DEFAULT 0,  -- 1: it is delivered once it is committed; 0: once it is sent
    asked           INTEGER NOT NULL DEFAULT 0,  -- how often since it was sent
    committed_at    REAL,
    UNIQUE (object_id, destination)
) STRICT;
CREATE INDEX outbox_due ON outbox (destination, state, next_attempt_at);
CREATE INDEX outbox_to_commit ON outbox (destination, next_attempt_at) WHERE state = 'sent' AND to_commit = 1;
CREATE INDEX outbox_undelivered ON outbox (id) WHERE state = 'undelivered';
CREATE INDEX outbox_sent ON outbox (destination, sent_at) WHERE sent_at IS NOT NULL;

CREATE TABLE commitment (                        -- what was asked of destinations that commit (PS3.4 annex J)
    transaction_uid TEXT PRIMARY KEY,
    destination     TEXT NOT NULL,
    asked_at        REAL NOT NULL
) STRICT;

CREATE TABLE commitment_item (                   -- of which sent items each of these asks; none of them is sent anew since
    transaction_uid TEXT NOT NULL REFERENCES commitment (transaction_uid) ON DELETE CASCADE,
    outbox_id       INTEGER NOT NULL REFERENCES outbox (id) ON DELETE CASCADE,
    PRIMARY KEY (transaction_uid, outbox_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX commitment_item_by_outbox ON commitment_item (outbox_id);

CREATE TABLE lane (                              -- a destination that failed, until it takes something again
    destination   TEXT PRIMARY KEY,
    failures      INTEGER NOT NULL,              -- one after another
    since         REAL NOT NULL,
    next_probe_at REAL NOT NULL,
    last_error    TEXT NOT NULL
) STRICT;

CREATE TABLE event (
    id          INTEGER PRIMARY KEY,
    instance_id INTEGER NOT NULL REFERENCES instance (id),
    at          REAL NOT NULL,
    what        TEXT NOT NULL,
    detail      TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX event_by_instance ON event (instance_id, id);
CREATE INDEX event_unmade ON event (at) WHERE what = 'unmade';

CREATE TABLE tally (                             -- rows of instance by state, and more, so that no page has to count
    name TEXT PRIMARY KEY,                       -- a state; total; followers: images that another one stands for
    n    INTEGER NOT NULL
) STRICT;
INSERT INTO tally VALUES ('received', 0), ('claimed', 0), ('written', 0), ('delivered', 0), ('rejected', 0), ('failed', 0), ('quarantined', 0), ('withheld', 0), ('total', 0), ('followers', 0);
CREATE TRIGGER instance_added AFTER INSERT ON instance BEGIN UPDATE tally SET n = n + 1 WHERE name IN (new.state, 'total'); END;
CREATE TRIGGER instance_moved AFTER UPDATE OF state ON instance WHEN new.state <> old.state BEGIN UPDATE tally SET n = n + CASE name WHEN new.state THEN 1 ELSE -1 END WHERE name IN (new.state, old.state); END;
CREATE TRIGGER instance_led AFTER UPDATE OF lead_id ON instance WHEN new.lead_id IS NOT old.lead_id BEGIN UPDATE tally SET n = n + (ifnull(new.lead_id, new.id) <> new.id) - (ifnull(old.lead_id, old.id) <> old.id) WHERE name = 'followers'; END;

CREATE TABLE outbox_tally (                      -- rows of outbox by destination and state
    destination TEXT NOT NULL,
    state       TEXT NOT NULL,
    n           INTEGER NOT NULL,
    PRIMARY KEY (destination, state)
) STRICT;
CREATE TRIGGER outbox_added AFTER INSERT ON outbox BEGIN INSERT INTO outbox_tally VALUES (new.destination, new.state, 1) ON CONFLICT DO UPDATE SET n = n + 1; END;
CREATE TRIGGER outbox_moved AFTER UPDATE OF state ON outbox WHEN new.state <> old.state BEGIN UPDATE outbox_tally SET n = n - 1 WHERE destination = old.destination AND state = old.state; INSERT INTO outbox_tally VALUES (new.destination, new.state, 1) ON CONFLICT DO UPDATE SET n = n + 1; END;
CREATE TRIGGER outbox_removed AFTER DELETE ON outbox BEGIN UPDATE outbox_tally SET n = n - 1 WHERE destination = old.destination AND state = old.state; END;

CREATE TABLE receipt (
    id        TEXT PRIMARY KEY,                  -- first 16 hex digits of the SHA-256 of its content
    made_at   REAL NOT NULL,
    content   TEXT NOT NULL,                     -- JSON
    signature TEXT NOT NULL
) STRICT;

CREATE TABLE component (                         -- the latest word of each running part, for the device page
    name       TEXT PRIMARY KEY,
    content    TEXT NOT NULL,                    -- JSON
    updated_at REAL NOT NULL
) STRICT;

CREATE TABLE reader_study (                      -- what appliance.reader_study keeps: who read which image, blinded, how
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    finding    TEXT NOT NULL,                    -- what readers are asked for
    scale      INTEGER NOT NULL,                 -- ratings go from 1 to this
    repeated   REAL NOT NULL,                    -- share of the cases that each reader sees twice
    created_at REAL NOT NULL
) STRICT;

CREATE TABLE reader_case (
    id              INTEGER PRIMARY KEY,
    reader_study_id INTEGER NOT NULL REFERENCES reader_study (id),
    image           TEXT NOT NULL,               -- SOP Instance UID, or the name of a file that is not DICOM
    picture         TEXT NOT NULL,               -- below the reader studies' folder
    score           REAL,                        -- the model's probability, NULL where it has not read it
    threshold       REAL,
    UNIQUE (reader_study_id, image)
) STRICT;

CREATE TABLE reader (
    id              INTEGER PRIMARY KEY,
    reader_study_id INTEGER NOT NULL REFERENCES reader_study (id),
    name            TEXT NOT NULL,
    code            TEXT NOT NULL,               -- with which a reader goes on in another browser
    started_at      REAL NOT NULL,
    finished_at     REAL,
    UNIQUE (reader_study_id, name)
) STRICT;

CREATE TABLE reading (
    id          INTEGER PRIMARY KEY,
    reader_id   INTEGER NOT NULL REFERENCES reader (id),
    case_id     INTEGER NOT NULL REFERENCES reader_case (id),
    place       INTEGER NOT NULL,                -- in this reader's order, from 1
    repetition  INTEGER NOT NULL,                -- 1 where this reader sees the case for the second time
    present     INTEGER,                         -- NULL: the reader can't judge it, or has not answered
    rating      INTEGER,
    seconds     REAL NOT NULL DEFAULT 0,         -- that the image was looked at
    answered_at REAL,
    UNIQUE (reader_id, place),
    UNIQUE (reader_id, case_id, repetition)
) STRICT;

CREATE TABLE owed_report (                       -- storage commitment requests whose report the peer has not taken yet
    id              INTEGER PRIMARY KEY,
    ae_title        TEXT NOT NULL,               -- of the peer that asked, and that is to be told
    host            TEXT NOT NULL,
    transaction_uid TEXT NOT NULL,
    wanted          TEXT NOT NULL,               -- JSON list of [SOP Class UID, SOP Instance UID]
    asked_at        REAL NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_at REAL NOT NULL,
    last_error      TEXT NOT NULL DEFAULT '',
    given_up_at     REAL,                        -- since when it is not tried any more
    UNIQUE (ae_title, host, transaction_uid)
) STRICT;

CREATE TABLE performed_step (                    -- Modality Performed Procedure Steps, while they may be of use
    sop_instance_uid TEXT PRIMARY KEY,
    status           TEXT NOT NULL CHECK (status IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')),
    ae_title         TEXT NOT NULL,              -- of the modality
    changed_at       REAL NOT NULL
) STRICT;

CREATE TABLE performed_series (                  -- what a step has made
    step_uid            TEXT NOT NULL REFERENCES performed_step (sop_instance_uid) ON DELETE CASCADE,
    series_instance_uid TEXT NOT NULL,
    images              TEXT NOT NULL,           -- JSON list of SOP Instance UIDs
    PRIMARY KEY (step_uid, series_instance_uid)
) STRICT;
CREATE INDEX performed_series_by_uid ON performed_series (series_instance_uid);

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
INSERT INTO history_mark VALUES (0, '{}');

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
