-- The statements of a rebuild. Read models are named alone: they are those of the session's schema.

-- [rebuild_lock] Held while a rebuild runs; false if another one does. A courtesy, no more: a
-- distributed database has one such lock on each node. `metrics_whole` looks whether it is held.
SELECT pg_try_advisory_lock(hashtext('userlog rebuild'));

-- [status_rebuild] The rebuild that is not finished, and how much of it is done.
SELECT g.generation, g.version, g.phase, g.started_at, s.*
FROM generations g
CROSS JOIN LATERAL (
    SELECT count(*) AS shards, count(s.done_at) AS shards_done,
        coalesce(sum(s.users), 0)::bigint AS users, coalesce(sum(s.events), 0)::bigint AS events,
        coalesce(sum(s.until) FILTER (WHERE s.shard = 0), 0)::bigint AS events_total,
        coalesce(sum(s.events) FILTER (WHERE s.done_at > g.started_at), 0)::bigint AS events_lately,
        max(s.done_at) AS last_done_at
    FROM rebuild_shards s WHERE s.generation = g.generation
) s
WHERE g.state = 'building'
ORDER BY g.generation DESC LIMIT 1;

-- [generation_new] Make room for a rebuild; its number is the next one.
INSERT INTO generations (generation, state, phase, version, fold)
SELECT max(generation) + 1, 'building', 'building', $1, $2 FROM generations
RETURNING generation;

-- [generation_hold] A generation that is being built, held until the transaction ends; no row if
-- it is not, any more.
SELECT version FROM generations
WHERE generation = $1 AND state = 'building'
FOR UPDATE;

-- [generation_phase] What the rebuild is at.
UPDATE generations SET phase = $2
WHERE generation = $1 AND state = 'building'
RETURNING generation;

-- [generation_resume] Go on with it.
UPDATE generations SET started_at = now()
WHERE generation = $1 AND state = 'building' AND version = $2
RETURNING generation;

-- [generation_start] Its tables hold the events up to here.
INSERT INTO checkpoints (partition, generation, position)
SELECT partition, generation, until
FROM rebuild_shards WHERE generation = $1 AND shard = 0;

-- [generation_live] From now on the projector keeps it up to date.
UPDATE generations SET state = 'live', phase = NULL
WHERE generation = $1 AND state = 'building'
RETURNING generation;

-- [generation_forget] No projector works on it any more.
DELETE FROM generations WHERE generation = $1;

-- [checkpoints_forget] Its checkpoints go with it.
DELETE FROM checkpoints WHERE generation = $1;

-- [generation_tables] The tables of all generations of some read models.
SELECT c.relname, i.inhrelid IS NOT NULL AS attached
FROM unnest($1::text[]) AS t (name)
JOIN pg_class c ON c.relname ~ ('^' || t.name || '_g[0-9]+$') AND c.relkind = 'r'
    AND c.relnamespace = current_schema()::regnamespace
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
ORDER BY c.relname;

-- [generation_indexes] What makes the indexes of a table $1 for one of its parts $2; none if the
-- part has some.
SELECT CASE WHEN i.indisprimary
    THEN format('ALTER TABLE %I ADD %s', $2::text, pg_get_constraintdef(k.oid))
    ELSE regexp_replace(pg_get_indexdef(i.indexrelid), ' INDEX \S+ ON ONLY \S+ ',
        format(' INDEX ON %I ', $2::text)) END AS statement
FROM pg_index i
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype = 'p'
WHERE i.indrelid = format('%I', $1::text)::regclass AND NOT EXISTS (
    SELECT FROM pg_index made WHERE made.indrelid = format('%I', $2::text)::regclass)
ORDER BY i.indisprimary DESC, i.indexrelid;

-- [active] The generation that answers.
SELECT generation FROM active_generation;

-- [flip] Let another generation answer.
UPDATE active_generation SET generation = $1 WHERE generation = $2 RETURNING generation;

-- [head_settled] The end of a partition, when no append is under way.
SELECT position FROM userlog.log_head WHERE partition = $1 FOR SHARE;

-- [shards_new] What there is to load.
INSERT INTO rebuild_shards (partition, generation, shard, first_stream, last_stream, until)
SELECT s.partition, $1, s.shard, s.first_stream, s.last_stream, s.until
FROM unnest($2::integer[], $3::integer[], $4::uuid[], $5::uuid[], $6::bigint[])
    AS s (partition, shard, first_stream, last_stream, until);

-- [shard_claim] A shard that is not loaded and that no worker has claimed, locked until the transaction ends.
SELECT shard, first_stream, last_stream, until FROM rebuild_shards
WHERE partition = $1 AND generation = $2 AND done_at IS NULL
ORDER BY shard LIMIT 1
FOR UPDATE SKIP LOCKED;

-- [shard_done] Its rows are there when this is.
UPDATE rebuild_shards SET events = $4, users = $5, done_at = clock_timestamp()
WHERE partition = $1 AND generation = $2 AND shard = $3;

-- [shards_open] How many shards are not loaded yet.
SELECT count(*) FROM rebuild_shards WHERE generation = $1 AND done_at IS NULL;

-- [shards_forget] And what a rebuild knew of it.
DELETE FROM rebuild_shards WHERE generation = $1;

-- [generation_uncounted] What keeps from statistics the columns that are kept from them in the read model.
SELECT format('ALTER TABLE %I ALTER COLUMN %I SET STATISTICS 0', $2::text, a.attname) AS statement
FROM pg_attribute a WHERE a.attrelid = $1::text::regclass AND a.attstattarget = 0 AND a.attnum > 0;
