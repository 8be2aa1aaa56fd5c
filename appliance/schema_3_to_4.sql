-- A ledger of version 3 becomes what schema.sql makes: quarantine as a state, retention, counts that are kept.

-- SQLite can't change a CHECK or a REFERENCES; its documentation gives this way (lang_altertable, section 8).
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql, '''rejected'', ''failed'')', '''rejected'', ''failed'', ''quarantined'')'), ' REFERENCES transfer (id)', '') WHERE name = 'instance';
PRAGMA writable_schema = RESET;
ALTER TABLE instance ADD COLUMN reviewed_at REAL;
ALTER TABLE instance ADD COLUMN image_removed_at REAL;
ALTER TABLE instance ADD COLUMN result_removed_at REAL;
ALTER TABLE object ADD COLUMN digest TEXT NOT NULL DEFAULT '';
UPDATE instance SET state = 'quarantined' WHERE state = 'failed' AND crashes >= 2;
CREATE INDEX instance_shown ON instance (id, lead_id) WHERE lead_id IS NULL OR lead_id = id;
CREATE INDEX instance_in_quarantine ON instance (id) WHERE state = 'quarantined';
CREATE INDEX instance_with_image ON instance (finished_at) WHERE image_removed_at IS NULL;
CREATE INDEX instance_with_result ON instance (finished_at) WHERE result_removed_at IS NULL AND state = 'delivered';

CREATE TABLE tally (                             -- rows of instance by state, and more, so that no page has to count
    name TEXT PRIMARY KEY,                       -- a state; total; followers: images that another one stands for
    n    INTEGER NOT NULL
) STRICT;
INSERT INTO tally VALUES ('received', 0), ('claimed', 0), ('written', 0), ('delivered', 0), ('rejected', 0), ('failed', 0), ('quarantined', 0), ('total', 0), ('followers', 0);
UPDATE tally SET n = (SELECT count(*) FROM instance WHERE state = name);
UPDATE tally SET n = (SELECT count(*) FROM instance) WHERE name = 'total';
UPDATE tally SET n = (SELECT count(*) FROM instance WHERE lead_id IS NOT NULL AND lead_id <> id) WHERE name = 'followers';
CREATE TRIGGER instance_added AFTER INSERT ON instance BEGIN UPDATE tally SET n = n + 1 WHERE name IN (new.state, 'total'); END;
CREATE TRIGGER instance_moved AFTER UPDATE OF state ON instance WHEN new.state <> old.state BEGIN UPDATE tally SET n = n + CASE name WHEN new.state THEN 1 ELSE -1 END WHERE name IN (new.state, old.state); END;
CREATE TRIGGER instance_led AFTER UPDATE OF lead_id ON instance WHEN new.lead_id IS NOT old.lead_id BEGIN UPDATE tally SET n = n + (ifnull(new.lead_id, new.id) <> new.id) - (ifnull(old.lead_id, old.id) <> old.id) WHERE name = 'followers'; END;

CREATE TABLE outbox_tally (                      -- rows of outbox by destination and state
    destination TEXT NOT NULL,
    state       TEXT NOT NULL,
    n           INTEGER NOT NULL,
    PRIMARY KEY (destination, state)
) STRICT;
INSERT INTO outbox_tally SELECT destination, state, count(*) FROM outbox GROUP BY destination, state;
CREATE TRIGGER outbox_added AFTER INSERT ON outbox BEGIN INSERT INTO outbox_tally VALUES (new.destination, new.state, 1) ON CONFLICT DO UPDATE SET n = n + 1; END;
CREATE TRIGGER outbox_moved AFTER UPDATE OF state ON outbox WHEN new.state <> old.state BEGIN UPDATE outbox_tally SET n = n - 1 WHERE destination = old.destination AND state = old.state; INSERT INTO outbox_tally VALUES (new.destination, new.state, 1) ON CONFLICT DO UPDATE SET n = n + 1; END;
