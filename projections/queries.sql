-- The read models' statements. A list compares its generation with a subquery, not by a join: only
-- then does its index give the order too. Rows of several users are looked up, or deleted, one by one:
-- of an array PostgreSQL before 17 thinks so ill that without statistics it reads all users instead.

-- [generations] The generations of a projection in one state, the newest first.
SELECT generation FROM userlog.generations
WHERE projection = $1 AND state = $2 ORDER BY generation DESC;

-- [checkpoint_lock] How far a partition has come, held until the transaction ends; no row if
-- another projector holds it. What is then written can be made again from the log, so its commit
-- need not wait for the disk: after a crash the checkpoint stands where the rows do.
SELECT position, set_config('synchronous_commit', 'off', true) FROM userlog.checkpoints
WHERE partition = $1 AND projection = $2 AND generation = $3
FOR UPDATE SKIP LOCKED;

-- [checkpoint_hold] The same, waiting for its holder.
SELECT position FROM userlog.checkpoints
WHERE partition = $1 AND projection = $2 AND generation = $3
FOR UPDATE;

-- [frozen_end] End the service's sessions that hold what they wrote and have waited for their
-- client as long as the server lets a session be idle in a transaction; return how many.
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.usename = session_user AND a.pid <> pg_backend_pid()
    AND a.application_name = current_setting('application_name')
    AND current_setting('idle_in_transaction_session_timeout') <> '0'
    AND a.state_change < clock_timestamp()
        - current_setting('idle_in_transaction_session_timeout')::interval
    AND (a.state LIKE 'idle in transaction%' OR a.wait_event IN ('ClientRead', 'ClientWrite'))
    AND a.backend_xid IS NOT NULL;

-- [checkpoint_of] The same, without holding it.
SELECT position FROM userlog.checkpoints WHERE partition = $1 AND projection = $2 AND generation = $3;

-- [checkpoint_move] Everything up to here is in the read model now.
UPDATE userlog.checkpoints SET position = $4, updated_at = now()
WHERE partition = $1 AND projection = $2 AND generation = $3;

-- [aside_of] Which of some users are set aside.
SELECT one.stream_id FROM unnest($3::uuid[]) AS one (stream_id) CROSS JOIN LATERAL (
    SELECT FROM userlog.set_aside a
    WHERE a.partition = $1 AND a.generation = $2 AND a.stream_id = one.stream_id LIMIT 1
) a;

-- [aside_put] Set some users aside, or move the mark of one to a later event.
INSERT INTO userlog.set_aside (partition, generation, stream_id, position, reason)
SELECT $1, $2, a.* FROM unnest($3::uuid[], $4::bigint[], $5::text[]) AS a
ON CONFLICT (partition, generation, stream_id) DO UPDATE
SET position = excluded.position, reason = excluded.reason;

-- [aside_drop] This user can be projected again, or is erased.
DELETE FROM userlog.set_aside WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [aside_forget] Those of a generation that is gone.
DELETE FROM userlog.set_aside WHERE generation = $1;

-- [aside_at] The event that keeps one user set aside in one generation.
SELECT position FROM userlog.set_aside WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [aside] What keeps one user set aside in the active generation.
SELECT a.position, a.reason, a.since
FROM userlog.projections p
JOIN userlog.set_aside a ON a.generation = p.active_generation
WHERE p.name = 'users' AND a.partition = $1 AND a.stream_id = $2;

-- [aside_count] How many are set aside in the active generation.
SELECT count(*) FROM userlog.projections p
JOIN userlog.set_aside a ON a.generation = p.active_generation
WHERE p.name = 'users';

-- [aside_list] All that are set aside in the active generation, in order.
SELECT a.partition, a.position, a.reason, a.since, s.application_id, s.user_id
FROM userlog.projections p
JOIN userlog.set_aside a ON a.generation = p.active_generation
JOIN userlog.streams s ON s.partition = a.partition AND s.stream_id = a.stream_id
WHERE p.name = 'users'
ORDER BY a.partition, a.position;

-- [users_get] The states of some users, each looked up by its key.
SELECT u.* FROM unnest($3::uuid[]) AS one (stream_id) CROSS JOIN LATERAL (
    SELECT u.stream_id, u.company_id, u.lifecycle, u.state, u.since, u.order_key, u.position, u.kind,
        u.occurred_at, u.recorded_at
    FROM userlog.users u
    WHERE u.partition = $1 AND u.generation = $2 AND u.stream_id = one.stream_id LIMIT 1
) u;

-- [users_put] Write some users.
INSERT INTO userlog.users (partition, generation, stream_id, application_id, user_id, company_id,
    lifecycle, state, since, order_key, position, kind, occurred_at, recorded_at)
SELECT $1, $2, u.*
FROM unnest($3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::json[], $9::json[],
    $10::bytea[], $11::bigint[], $12::smallint[], $13::timestamptz[], $14::timestamptz[]) AS u
ON CONFLICT (partition, generation, stream_id) DO UPDATE
SET application_id = excluded.application_id, user_id = excluded.user_id,
    company_id = excluded.company_id, lifecycle = excluded.lifecycle, state = excluded.state,
    since = excluded.since, order_key = excluded.order_key, position = excluded.position,
    kind = excluded.kind, occurred_at = excluded.occurred_at, recorded_at = excluded.recorded_at;

-- [users_drop] Forget a user.
DELETE FROM userlog.users WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [history_drop] Forget the history of a user.
DELETE FROM userlog.history WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [history_put] Write some entries.
INSERT INTO userlog.history (partition, generation, stream_id, order_key, position, kind,
    occurred_at, recorded_at, stated_at, late, summary, changes)
SELECT $1, $2, h.*
FROM unnest($3::uuid[], $4::bytea[], $5::bigint[], $6::smallint[], $7::timestamptz[],
    $8::timestamptz[], $9::timestamptz[], $10::boolean[], $11::json[], $12::json[]) AS h;

-- [activity_put] Add to the days of some users.
INSERT INTO userlog.activity (partition, generation, stream_id, application_id, day, created,
    deleted, blocked, active)
SELECT $1, $2, a.*
FROM unnest($3::uuid[], $4::text[], $5::date[], $6::integer[], $7::integer[], $8::integer[],
    $9::integer[]) AS a
ON CONFLICT (partition, generation, stream_id, day) DO UPDATE
SET created = activity.created + excluded.created, deleted = activity.deleted + excluded.deleted,
    blocked = activity.blocked + excluded.blocked, active = activity.active + excluded.active;

-- [activity_drop] Forget the days of a user.
DELETE FROM userlog.activity WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [terms_put] Let some users be found.
INSERT INTO userlog.terms (partition, generation, stream_id, term)
SELECT $1, $2, t.* FROM unnest($3::uuid[], $4::bytea[]) AS t;

-- [terms_drop] Let a user not be found any more.
DELETE FROM userlog.terms WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [users_found] Users who have a term and all others of a list, the most recently changed first.
SELECT u.partition, u.stream_id, u.application_id, u.user_id, u.company_id, u.lifecycle, u.state,
    u.position, u.kind, u.occurred_at, u.recorded_at, a.position AS stale_position,
    a.reason AS stale_reason, a.since AS stale_since
FROM userlog.projections p
JOIN userlog.terms t ON t.generation = p.active_generation
JOIN userlog.users u ON u.partition = t.partition AND u.generation = t.generation
    AND u.stream_id = t.stream_id
LEFT JOIN userlog.set_aside a ON a.partition = u.partition AND a.generation = u.generation
    AND a.stream_id = u.stream_id
WHERE p.name = 'users' AND t.partition = ANY($1) AND t.term = $2 AND u.lifecycle = ANY($4)
    AND u.occurred_at >= $5 AND (u.occurred_at, u.stream_id) < ($6, $7::uuid)
    AND NOT EXISTS (
        SELECT FROM unnest($3::bytea[]) AS wanted WHERE NOT EXISTS (
            SELECT FROM userlog.terms o
            WHERE o.partition = t.partition AND o.generation = t.generation
                AND o.stream_id = t.stream_id AND o.term = wanted
        )
    )
ORDER BY u.occurred_at DESC, u.stream_id DESC
LIMIT $8;

-- [users_listed] An application's users, the most recently changed first.
SELECT u.*, a.position AS stale_position, a.reason AS stale_reason, a.since AS stale_since
FROM unnest($1::integer[]) AS part CROSS JOIN unnest($3::text[]) AS life
CROSS JOIN LATERAL (
    SELECT u.partition, u.generation, u.stream_id, u.application_id, u.user_id, u.company_id,
        u.lifecycle, u.state, u.position, u.kind, u.occurred_at, u.recorded_at
    FROM userlog.users u
    WHERE u.partition = part AND u.application_id = $2 AND u.lifecycle = life
        AND u.generation = (SELECT p.active_generation FROM userlog.projections p WHERE p.name = 'users')
        AND u.occurred_at >= $4 AND (u.occurred_at, u.stream_id) < ($5, $6::uuid)
    ORDER BY u.occurred_at DESC, u.stream_id DESC
    LIMIT $7
) u
LEFT JOIN userlog.set_aside a ON a.partition = u.partition AND a.generation = u.generation
    AND a.stream_id = u.stream_id
ORDER BY u.occurred_at DESC, u.stream_id DESC
LIMIT $7;

-- [activity] An application's days until $4, all partitions together; those before $3 are one row
-- without a day. Read from the index alone, and of the active generation alone: a subquery is
-- known before the tables are chosen, a join is not. OFFSET 0 keeps it one look for each partition.
SELECT CASE WHEN a.day >= $3::date THEN a.day END AS day, sum(a.created) AS created,
    sum(a.deleted) AS deleted, sum(a.blocked) AS blocked, sum(a.active) AS active
FROM unnest($1::integer[]) AS part CROSS JOIN LATERAL (
    SELECT a.day, a.created, a.deleted, a.blocked, a.active FROM userlog.activity a
    WHERE a.partition = part AND a.application_id = $2 AND a.day <= $4::date
        AND a.generation = (SELECT active_generation FROM userlog.projections WHERE name = 'users')
    OFFSET 0
) a
GROUP BY 1
ORDER BY 1;

-- [user] One user in the active generation, and what keeps them set aside, if they are.
SELECT u.partition, u.application_id, u.user_id, u.company_id, u.lifecycle, u.state, u.position,
    u.kind, u.occurred_at, u.recorded_at, a.position AS stale_position, a.reason AS stale_reason, a.since AS stale_since
FROM userlog.users u
LEFT JOIN userlog.set_aside a ON a.partition = u.partition AND a.generation = u.generation
    AND a.stream_id = u.stream_id
WHERE u.partition = $1 AND u.stream_id = $2
    AND u.generation = (SELECT active_generation FROM userlog.projections WHERE name = 'users');

-- [events_back] A user's events from a moment back, the newest first, of those recorded by $5, at
-- positions up to $6. Each row has the end of the log besides and, for the first look, which has
-- no bound $6, the user's row in the active generation: it says what to look for, if every event
-- of the user is in it. It is not if the user is set aside; events that are not projected yet are
-- looked at one by one along the log's end, of at most 1,000, so that it costs little however many the
-- user has, and there is no other way to plan it: a range of positions was once read from the index of
-- the users' events, which is all of it. The events name what they are joined with, so that all that
-- is looked up once and not for each of them.
SELECT h.position AS head, u.state, u.since, u.company_id, s.application_id, s.user_id, s.key_id,
    s.data_key, s.erased_position, e.*
FROM userlog.streams s
JOIN userlog.log_head h ON h.partition = s.partition
LEFT JOIN LATERAL (
    SELECT u.state, u.since, u.company_id, h.position AS until
    FROM userlog.projections p
    JOIN userlog.checkpoints c ON c.projection = p.name AND c.generation = p.active_generation
    CROSS JOIN LATERAL (
        SELECT u.state, u.since, u.company_id FROM userlog.users u
        WHERE u.partition = $1 AND u.generation = p.active_generation AND u.stream_id = $2 LIMIT 1
    ) u
    WHERE p.name = 'users' AND c.partition = $1
        AND h.position < $6::bigint AND h.position - c.position <= 1000
        AND NOT EXISTS (
            SELECT FROM userlog.set_aside a WHERE a.partition = $1
                AND a.generation = p.active_generation AND a.stream_id = $2
        )
        AND NOT EXISTS (
            SELECT FROM generate_series(c.position + 1, h.position) AS waiting (at)
            CROSS JOIN LATERAL (
                SELECT e.stream_id FROM userlog.events e
                WHERE e.partition = $1 AND e.position = waiting.at LIMIT 1
            ) e WHERE e.stream_id = $2
        )
) u ON true
CROSS JOIN LATERAL (
    SELECT e.position, e.kind, e.stream_id, e.occurred_at, e.recorded_at, e.identity, e.payload
    FROM userlog.events e
    WHERE e.partition = $1 AND e.stream_id = s.stream_id
        AND (e.occurred_at, e.position) <= ($3, $4::bigint)
        AND e.recorded_at <= $5 AND e.position <= coalesce(u.until, $6)
    ORDER BY e.occurred_at DESC, e.position DESC
    LIMIT $7
) e
WHERE s.partition = $1 AND s.stream_id = $2
ORDER BY e.occurred_at DESC, e.position DESC;

-- [history_asc] A user's history from an entry on, oldest first, below an order key.
SELECT h.order_key, h.position, h.kind, h.occurred_at, h.recorded_at, h.stated_at, h.late,
    h.summary, h.changes
FROM userlog.history h
WHERE h.partition = $1 AND h.stream_id = $2
    AND h.generation = (SELECT p.active_generation FROM userlog.projections p WHERE p.name = 'users')
    AND ($3::bytea IS NULL OR (h.order_key, h.position) > ($3, $4::bigint))
    AND h.order_key < $5
ORDER BY h.order_key, h.position
LIMIT $6;

-- [history_desc] The same, newest first.
SELECT h.order_key, h.position, h.kind, h.occurred_at, h.recorded_at, h.stated_at, h.late,
    h.summary, h.changes
FROM userlog.history h
WHERE h.partition = $1 AND h.stream_id = $2
    AND h.generation = (SELECT p.active_generation FROM userlog.projections p WHERE p.name = 'users')
    AND ($3::bytea IS NULL OR (h.order_key, h.position) < ($3, $4::bigint))
    AND h.order_key < $5
ORDER BY h.order_key DESC, h.position DESC
LIMIT $6;

-- [checkpoint] How far the active generation of a partition has come.
SELECT c.position, c.generation FROM userlog.projections p
JOIN userlog.checkpoints c ON c.projection = p.name AND c.generation = p.active_generation
WHERE p.name = 'users' AND c.partition = $1;

-- [status] Every partition's head, and how far each generation has come.
SELECT h.partition, h.position AS head, h.recorded_at AS head_recorded_at, c.projection,
    c.generation, g.state, g.generation = p.active_generation AS active, c.position,
    (SELECT e.recorded_at FROM userlog.events e
        WHERE e.partition = h.partition AND e.position = c.position + 1) AS oldest_waiting
FROM userlog.log_head h
JOIN userlog.checkpoints c ON c.partition = h.partition
JOIN userlog.generations g ON g.projection = c.projection AND g.generation = c.generation
JOIN userlog.projections p ON p.name = c.projection
ORDER BY h.partition, c.projection, c.generation;

-- [status_rebuild] The rebuild that is not finished, and how much of it is done.
SELECT g.generation, g.version, g.phase, g.created_at, g.started_at, now() AS seen_at, s.*
FROM userlog.generations g
CROSS JOIN LATERAL (
    SELECT count(*) AS shards, count(s.done_at) AS shards_done,
        coalesce(sum(s.users), 0)::bigint AS users, coalesce(sum(s.events), 0)::bigint AS events,
        coalesce(sum(s.until) FILTER (WHERE s.shard = 0), 0)::bigint AS events_total,
        coalesce(sum(s.events) FILTER (WHERE s.done_at > g.started_at), 0)::bigint AS events_lately,
        max(s.done_at) AS last_done_at
    FROM userlog.rebuild_shards s WHERE s.generation = g.generation
) s
WHERE g.projection = 'users' AND g.state = 'building'
ORDER BY g.generation DESC LIMIT 1;

-- [generation_new] Make room for a rebuild; its number is the next one.
INSERT INTO userlog.generations (projection, generation, state, phase, version)
SELECT 'users', max(generation) + 1, 'building', 'building', $1
FROM userlog.generations WHERE projection = 'users'
RETURNING generation;

-- [shards_new] What there is to load.
INSERT INTO userlog.rebuild_shards (partition, generation, shard, first_stream, last_stream, until)
SELECT s.partition, $1, s.shard, s.first_stream, s.last_stream, s.until
FROM unnest($2::integer[], $3::integer[], $4::uuid[], $5::uuid[], $6::bigint[])
    AS s (partition, shard, first_stream, last_stream, until);

-- [shard_claim] A shard that nobody has loaded or is loading, held until the transaction ends.
SELECT shard, first_stream, last_stream, until FROM userlog.rebuild_shards
WHERE partition = $1 AND generation = $2 AND done_at IS NULL
ORDER BY shard LIMIT 1
FOR UPDATE SKIP LOCKED;

-- [shard_done] Its rows are there when this is.
UPDATE userlog.rebuild_shards SET events = $4, users = $5, done_at = clock_timestamp()
WHERE partition = $1 AND generation = $2 AND shard = $3;

-- [shards_open] How many shards are not loaded yet.
SELECT count(*) FROM userlog.rebuild_shards WHERE generation = $1 AND done_at IS NULL;

-- [generation_hold] A generation that is being built, held until the transaction ends; no row if
-- it is not, any more.
SELECT version FROM userlog.generations
WHERE projection = 'users' AND generation = $1 AND state = 'building'
FOR UPDATE;

-- [generation_phase] What the rebuild is at.
UPDATE userlog.generations SET phase = $2
WHERE projection = 'users' AND generation = $1 AND state = 'building'
RETURNING generation;

-- [generation_resume] Go on with it.
UPDATE userlog.generations SET started_at = now()
WHERE projection = 'users' AND generation = $1 AND state = 'building' AND version = $2
RETURNING generation;

-- [generation_start] Its tables hold the events up to here.
INSERT INTO userlog.checkpoints (partition, projection, generation, position)
SELECT partition, 'users', generation, until
FROM userlog.rebuild_shards WHERE generation = $1 AND shard = 0;

-- [head_settled] The end of a partition, when no append is under way.
SELECT position FROM userlog.log_head WHERE partition = $1 FOR SHARE;

-- [generation_live] From now on the projector keeps it up to date.
UPDATE userlog.generations SET state = 'live', phase = NULL
WHERE projection = 'users' AND generation = $1 AND state = 'building'
RETURNING generation;

-- [active] The generation that answers.
SELECT active_generation FROM userlog.projections WHERE name = 'users';

-- [flip] Let another generation answer.
UPDATE userlog.projections SET active_generation = $1
WHERE name = 'users' AND active_generation = $2
RETURNING active_generation;

-- [generation_forget] No projector works on it any more.
DELETE FROM userlog.generations WHERE projection = 'users' AND generation = $1;

-- [checkpoints_forget] Its checkpoints go with it.
DELETE FROM userlog.checkpoints WHERE projection = 'users' AND generation = $1;

-- [shards_forget] And what a rebuild knew of it.
DELETE FROM userlog.rebuild_shards WHERE generation = $1;

-- [rebuild_lock] Held while a rebuild runs; false if another one does. A courtesy, no more: a
-- distributed database has one such lock on each node. `metrics_whole` looks whether it is held.
SELECT pg_try_advisory_lock(hashtext('userlog rebuild'));

-- [generation_tables] The tables of all generations that exist.
SELECT c.relname, i.inhrelid IS NOT NULL AS attached
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE n.nspname = 'userlog' AND c.relkind = 'r' AND c.relname ~ '^(users|history|activity|terms)_g\d+$'
ORDER BY c.relname;

-- [generation_indexes] What makes the indexes of a table $1 for one of its parts $2; none if the
-- part has some.
SELECT CASE WHEN i.indisprimary
    THEN format('ALTER TABLE userlog.%I ADD %s', $2::text, pg_get_constraintdef(k.oid))
    ELSE regexp_replace(pg_get_indexdef(i.indexrelid), ' INDEX \S+ ON ONLY \S+ ',
        format(' INDEX ON userlog.%I ', $2::text)) END AS statement
FROM pg_index i
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype = 'p'
WHERE i.indrelid = format('userlog.%I', $1::text)::regclass AND NOT EXISTS (
    SELECT FROM pg_index made WHERE made.indrelid = format('userlog.%I', $2::text)::regclass)
ORDER BY i.indisprimary DESC, i.indexrelid;

-- [not_compared] Users whose rows are not those of the log up to a position, and need not be:
-- their erasure, which takes the rows at once, stands behind it, or they are set aside.
SELECT e.stream_id FROM userlog.events e
WHERE e.partition = $1 AND e.position > $2 AND e.kind = 4
UNION SELECT a.stream_id FROM userlog.set_aside a WHERE a.partition = $1 AND a.generation = $3;

-- [names] Who these users are.
SELECT stream_id, application_id, user_id FROM userlog.streams
WHERE partition = $1 AND stream_id = ANY($2);

-- [scrub_last] The last of so many users from one on.
SELECT stream_id FROM userlog.streams
WHERE partition = $1 AND stream_id >= $2
ORDER BY stream_id OFFSET $3::bigint - 1 LIMIT 1;

-- [scrubbed] Add to what has been compared of a partition.
INSERT INTO userlog.scrubs AS s (partition, users, differences, differed_at)
VALUES ($1, $2, $3::bigint, CASE WHEN $3::bigint > 0 THEN now() END)
ON CONFLICT (partition) DO UPDATE
SET users = s.users + excluded.users, differences = s.differences + excluded.differences,
    scrubbed_at = excluded.scrubbed_at, differed_at = coalesce(excluded.differed_at, s.differed_at);

-- [users_rows] The rows of a range of users, user by user.
SELECT stream_id, application_id, user_id, company_id, lifecycle, state, since, order_key, position,
    kind, occurred_at, recorded_at
FROM userlog.users
WHERE partition = $1 AND generation = $2 AND stream_id BETWEEN $3 AND $4
ORDER BY stream_id;

-- [users_sums] How many rows of each generation begin with each byte, and a sum over them that no
-- order changes.
SELECT t.generation, get_byte(uuid_send(t.stream_id), 0) AS bucket, count(*) AS rows,
    sum(hash_record_extended(ROW (t.stream_id, t.application_id, t.user_id, t.company_id,
        t.lifecycle, t.state::text, t.since::text, t.order_key, t.position, t.kind, t.occurred_at,
        t.recorded_at), 0)) AS checksum
FROM userlog.users t
WHERE t.partition = $1 AND t.generation = ANY($2)
GROUP BY 1, 2;

-- [history_rows] The history of a range of users, user by user.
SELECT stream_id, order_key, position, kind, occurred_at, recorded_at, stated_at, late, summary,
    changes
FROM userlog.history
WHERE partition = $1 AND generation = $2 AND stream_id BETWEEN $3 AND $4
ORDER BY stream_id, order_key, position;

-- [history_sums] How many rows of each generation begin with each byte, and a sum over them that no
-- order changes.
SELECT t.generation, get_byte(uuid_send(t.stream_id), 0) AS bucket, count(*) AS rows,
    sum(hash_record_extended(ROW (t.stream_id, t.order_key, t.position, t.kind, t.occurred_at,
        t.recorded_at, t.stated_at, t.late, t.summary::text, t.changes::text), 0)) AS checksum
FROM userlog.history t
WHERE t.partition = $1 AND t.generation = ANY($2)
GROUP BY 1, 2;

-- [activity_rows] The days of a range of users, user by user.
SELECT stream_id, application_id, day, created, deleted, blocked, active
FROM userlog.activity
WHERE partition = $1 AND generation = $2 AND stream_id BETWEEN $3 AND $4
ORDER BY stream_id, day;

-- [terms_rows] What a range of users can be found by, user by user.
SELECT stream_id, term
FROM userlog.terms
WHERE partition = $1 AND generation = $2 AND stream_id BETWEEN $3 AND $4
ORDER BY stream_id, term;

-- [terms_sums] How many rows of each generation begin with each byte, and a sum over them that no
-- order changes.
SELECT t.generation, get_byte(uuid_send(t.stream_id), 0) AS bucket, count(*) AS rows,
    sum(hash_record_extended(ROW (t.stream_id, t.term), 0)) AS checksum
FROM userlog.terms t
WHERE t.partition = $1 AND t.generation = ANY($2)
GROUP BY 1, 2;

-- [activity_sums] How many rows of each generation begin with each byte, and a sum over them that no
-- order changes.
SELECT t.generation, get_byte(uuid_send(t.stream_id), 0) AS bucket, count(*) AS rows,
    sum(hash_record_extended(ROW (t.stream_id, t.application_id, t.day, t.created, t.deleted,
        t.blocked, t.active), 0)) AS checksum
FROM userlog.activity t
WHERE t.partition = $1 AND t.generation = ANY($2)
GROUP BY 1, 2;
