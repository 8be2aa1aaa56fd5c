-- A ledger of version 2 becomes what schema.sql makes: reader studies, outlines of segments, series of images.

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

ALTER TABLE result ADD COLUMN outlines TEXT NOT NULL DEFAULT 'null';

ALTER TABLE instance ADD COLUMN transfer_id TEXT REFERENCES transfer (id);
ALTER TABLE instance ADD COLUMN lead_id INTEGER REFERENCES instance (id);
ALTER TABLE instance ADD COLUMN parked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instance ADD COLUMN place TEXT;
DROP INDEX instance_queue;
CREATE INDEX instance_queue ON instance (due_at) WHERE state IN ('received', 'claimed') AND parked = 0;
CREATE INDEX instance_unread ON instance (received_at) WHERE state IN ('received', 'claimed') AND triaged = 0;
CREATE INDEX instance_by_lead ON instance (lead_id) WHERE lead_id IS NOT NULL;
CREATE INDEX instance_by_transfer ON instance (transfer_id) WHERE state IN ('received', 'claimed');
CREATE INDEX result_urgent ON result (instance_id) WHERE urgent = 1;

CREATE TABLE transfer (
    id        TEXT PRIMARY KEY,
    source    TEXT NOT NULL,
    opened_at REAL NOT NULL,
    ended_at  REAL,
    ending    TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX transfer_open ON transfer (id) WHERE ended_at IS NULL;

CREATE TABLE series (
    lead_id             INTEGER PRIMARY KEY REFERENCES instance (id),
    series_instance_uid TEXT NOT NULL,
    study_instance_uid  TEXT NOT NULL,
    patient_id          TEXT NOT NULL,
    images              INTEGER NOT NULL,
    why                 TEXT NOT NULL,
    look_again_at       REAL NOT NULL,
    started_at          REAL,
    superseded_by       INTEGER REFERENCES series (lead_id)
) STRICT;
CREATE INDEX series_by_uid ON series (series_instance_uid);
CREATE INDEX series_gathered ON series (look_again_at) WHERE started_at IS NULL;
CREATE INDEX series_superseded ON series (superseded_by) WHERE superseded_by IS NOT NULL;
