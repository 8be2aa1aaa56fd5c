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
