-- A ledger of version 1 becomes one of version 2. What waits takes its place by the time it was received.

ALTER TABLE instance ADD COLUMN ae_title TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN priority TEXT NOT NULL DEFAULT 'routine';
ALTER TABLE instance ADD COLUMN due_at REAL NOT NULL DEFAULT 0;
ALTER TABLE instance ADD COLUMN triaged INTEGER NOT NULL DEFAULT 0;
UPDATE instance SET due_at = received_at WHERE state IN ('received', 'claimed');
DROP INDEX instance_by_state;
CREATE INDEX instance_by_state ON instance (state);
CREATE INDEX instance_queue ON instance (due_at) WHERE state IN ('received', 'claimed');
