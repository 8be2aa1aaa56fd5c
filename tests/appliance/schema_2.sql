-- The ledger. Times are seconds since 1970 (UTC); JSON columns hold what appliance.result defines.

CREATE TABLE instance (
    id                 INTEGER PRIMARY KEY,
    sop_instance_uid   TEXT NOT NULL,            -- '' for a file that is not DICOM
    sop_class_uid      TEXT NOT NULL,
    digest             TEXT NOT NULL UNIQUE,     -- SHA-256 of the data set: the same one is the same instance
    file               TEXT NOT NULL,            -- below the spool
    size               INTEGER NOT NULL,
    source             TEXT NOT NULL,            -- storage_scp | drop_folder
    sender             TEXT NOT NULL,            -- AE title and address, or the file's name
    received_at        REAL NOT NULL,
    copies             INTEGER NOT NULL DEFAULT 1,   -- how often the same was sent
    state              TEXT NOT NULL CHECK (state IN ('received', 'claimed', 'written', 'delivered', 'rejected', 'failed')),
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
    triaged            INTEGER NOT NULL DEFAULT 0    -- whether priority and due_at count what the header says
) STRICT;
CREATE INDEX instance_by_uid ON instance (sop_instance_uid);
CREATE INDEX instance_by_state ON instance (state);
CREATE INDEX instance_by_time ON instance (received_at);
-- Of open instances only, so that it stays small however many are done.
CREATE INDEX instance_queue ON instance (due_at) WHERE state IN ('received', 'claimed');

CREATE TABLE result (
    instance_id  INTEGER PRIMARY KEY REFERENCES instance (id),
    findings     TEXT NOT NULL,                  -- JSON list of Finding
    warnings     TEXT NOT NULL,                  -- JSON list of sentences
    provenance   TEXT NOT NULL,                  -- JSON of Provenance
    seconds      TEXT NOT NULL,                  -- JSON: decode, preprocess, infer, write, total
    urgent       INTEGER NOT NULL,
    made_at      REAL NOT NULL
) STRICT;

CREATE TABLE object (
    id               INTEGER PRIMARY KEY,
    instance_id      INTEGER NOT NULL REFERENCES instance (id),
    kind             TEXT NOT NULL,              -- structured_report | secondary_capture
    sop_class_uid    TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL UNIQUE,
    path             TEXT NOT NULL,              -- below the results folder
    UNIQUE (instance_id, kind)
) STRICT;

CREATE TABLE outbox (
    id              INTEGER PRIMARY KEY,
    object_id       INTEGER NOT NULL REFERENCES object (id),
    destination     TEXT NOT NULL,
    state           TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_at REAL NOT NULL,
    last_error      TEXT NOT NULL DEFAULT '',
    sent_at         REAL,
    UNIQUE (object_id, destination)
) STRICT;
CREATE INDEX outbox_due ON outbox (destination, state, next_attempt_at);

CREATE TABLE event (
    id          INTEGER PRIMARY KEY,
    instance_id INTEGER NOT NULL REFERENCES instance (id),
    at          REAL NOT NULL,
    what        TEXT NOT NULL,
    detail      TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX event_by_instance ON event (instance_id, id);

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

PRAGMA user_version = 2;
