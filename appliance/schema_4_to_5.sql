-- A ledger of version 4 becomes what schema.sql makes: deliveries that are committed or given up, who is read first.

-- SQLite can't change a CHECK; its documentation gives this way (lang_altertable, section 8).
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, '(''waiting'', ''sent'')', '(''waiting'', ''sent'', ''committed'', ''undelivered'')') WHERE name = 'outbox';
PRAGMA writable_schema = RESET;
ALTER TABLE outbox ADD COLUMN queued_at REAL NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN to_commit INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN committed_at REAL;
UPDATE outbox SET queued_at = CAST(strftime('%s', 'now') AS REAL);
CREATE INDEX outbox_to_commit ON outbox (destination, next_attempt_at) WHERE state = 'sent' AND to_commit = 1;
CREATE INDEX outbox_undelivered ON outbox (id) WHERE state = 'undelivered';

CREATE TABLE commitment (                        -- what was asked of destinations that commit (PS3.4 annex J)
    transaction_uid TEXT PRIMARY KEY,
    destination     TEXT NOT NULL,
    asked_at        REAL NOT NULL
) STRICT;

CREATE TABLE lane (                              -- a destination that failed, until it takes something again
    destination   TEXT PRIMARY KEY,
    failures      INTEGER NOT NULL,              -- one after another
    since         REAL NOT NULL,
    next_probe_at REAL NOT NULL,
    last_error    TEXT NOT NULL
) STRICT;

ALTER TABLE instance ADD COLUMN reading_rank INTEGER NOT NULL DEFAULT 5;
UPDATE instance SET reading_rank = CASE priority WHEN 'stat' THEN 2 WHEN 'low' THEN 8 ELSE 5 END;
UPDATE instance SET reading_rank = 0 WHERE id IN (SELECT instance_id FROM result WHERE urgent = 1);
DROP INDEX result_urgent;
DROP INDEX instance_shown;
CREATE INDEX instance_read_first ON instance (reading_rank, id DESC) WHERE (lead_id IS NULL OR lead_id = id) AND reading_rank < 5 AND reviewed_at IS NULL;
CREATE INDEX instance_read_later ON instance (id) WHERE (lead_id IS NULL OR lead_id = id) AND (reading_rank >= 5 OR reviewed_at IS NOT NULL);

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
