-- Statements about the read models that an upgrade makes, in a schema of their own.

-- [next_note] What is noted of them; null if there are none.
SELECT obj_description(to_regnamespace('userlog_next'), 'pg_namespace');

-- [next_is_there] Whether there is a schema of that name.
SELECT to_regnamespace('userlog_next') IS NOT NULL;

-- [next_newly_parked] How many users are parked there, and not in the old read models.
SELECT count(*) FROM userlog_next.parked p WHERE NOT EXISTS (
    SELECT FROM userlog.{old} o WHERE o.partition = p.partition AND o.stream_id = p.stream_id);

-- [next_checkpoints] A checkpoint for each partition.
INSERT INTO userlog_next.checkpoints (partition, generation)
SELECT partition, 1 FROM userlog.log_head WHERE partition > 0;

-- [next_generation] Numbers go on from those of the old read models, so that no old projector takes
-- a new generation for one of its own.
UPDATE userlog_next.generations SET generation = (SELECT max(generation) FROM userlog.generations);

-- [next_active] Likewise.
UPDATE userlog_next.active_generation
SET generation = (SELECT max(generation) FROM userlog.generations);

-- [next_checkpoint_generations] Likewise.
UPDATE userlog_next.checkpoints SET generation = (SELECT max(generation) FROM userlog.generations);

-- [next_writers] The transactions that have or want more of the heads than to read them.
SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}') FROM pg_locks l
WHERE l.relation = 'userlog.log_head'::regclass AND l.mode <> 'AccessShareLock'
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());

-- [next_own_keys] Keys of the log's own that it has no place for before the switch.
CREATE TABLE userlog_next.own_keys (name text PRIMARY KEY, wrapped bytea NOT NULL);

-- [next_moves] What moves the tables into their place.
SELECT format('ALTER TABLE %I.%I SET SCHEMA userlog', $1::text, c.relname) AS statement
FROM pg_class c WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'p')
    AND c.relname <> 'own_keys'
ORDER BY c.oid;

-- [next_left] What an upgrade to version 5 has still to do: 'switched', the audit has to begin;
-- 'kept whole', deliveries in quarantine are to be taken apart; null, nothing.
SELECT obj_description('userlog.quarantine'::regclass, 'pg_class');

-- [next_audit_begun] The audit has begun.
COMMENT ON TABLE userlog.quarantine IS 'kept whole';

-- [next_taken_apart] Nothing is left.
COMMENT ON TABLE userlog.quarantine IS NULL;

-- [next_audit_since] Erasures of a version without an audit, which had waited for the switch.
UPDATE userlog.audit_head a SET since = h.position
FROM userlog.log_head h WHERE h.partition = a.partition;
