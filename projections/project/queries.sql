-- The statements of projecting: users' states, checkpoints, parked users, stuck sessions.

-- [users_get] The states of some users, each looked up by its key (docs/planner.md, 3 and 4).
SELECT u.* FROM unnest($3::uuid[]) AS one (stream_id) CROSS JOIN LATERAL (
    SELECT u.stream_id, u.lifecycle, u.tie_break, u.position, u.kind, u.occurred_at, u.recorded_at,
        u.sealed
    FROM users u
    WHERE u.partition = $1 AND u.generation = $2 AND u.stream_id = one.stream_id LIMIT 1
) u;

-- [checkpoint_lock] How far a partition has come, held until the transaction ends; no row if
-- another projector holds it. What is then written can be made again from the log, so its commit
-- need not wait for the disk: after a crash the checkpoint stands where the rows do.
SELECT position, set_config('synchronous_commit', 'off', true) FROM checkpoints
WHERE partition = $1 AND generation = $2
FOR UPDATE SKIP LOCKED;

-- [checkpoint_hold] The same, waiting for its holder.
SELECT position FROM checkpoints
WHERE partition = $1 AND generation = $2
FOR UPDATE;

-- [checkpoint_of] The same, without holding it.
SELECT position FROM checkpoints WHERE partition = $1 AND generation = $2;

-- [checkpoint] How far the active generation of a partition has come.
SELECT c.position, c.generation FROM active_generation a
JOIN checkpoints c ON c.generation = a.generation
WHERE c.partition = $1;

-- [checkpoint_move] Everything up to here is in the read model now.
UPDATE checkpoints SET position = $3
WHERE partition = $1 AND generation = $2;

-- [generations] The generations in one state, the newest first.
SELECT generation FROM generations WHERE state = $1 ORDER BY generation DESC;

-- [generations_followed] The generations that a projector with this fold keeps up to date.
SELECT generation FROM generations WHERE state = 'live' AND fold = $1 ORDER BY generation DESC;

-- [frozen_end] End the service's sessions that hold what they wrote and have waited for their
-- client as long as the server lets a session be idle in a transaction; return how many.
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.usename = session_user AND a.pid <> pg_backend_pid()
    AND split_part(a.application_name, ' ', 1)
        = split_part(current_setting('application_name'), ' ', 1)
    AND current_setting('idle_in_transaction_session_timeout') <> '0'
    AND a.state_change < clock_timestamp()
        - current_setting('idle_in_transaction_session_timeout')::interval
    AND (a.state LIKE 'idle in transaction%' OR a.wait_event IN ('ClientRead', 'ClientWrite'))
    AND a.backend_xid IS NOT NULL;

-- [parked_of] Which of some users are parked.
SELECT one.stream_id FROM unnest($3::uuid[]) AS one (stream_id) CROSS JOIN LATERAL (
    SELECT FROM parked p
    WHERE p.partition = $1 AND p.generation = $2 AND p.stream_id = one.stream_id LIMIT 1
) p;

-- [park] Park some users; one who is parked already, because of a later event.
INSERT INTO parked (partition, generation, stream_id, position, reason)
SELECT $1, $2, p.* FROM unnest($3::uuid[], $4::bigint[], $5::text[]) AS p
ON CONFLICT (partition, stream_id, generation) DO UPDATE
SET position = excluded.position, reason = excluded.reason;

-- [unpark] This user can be projected again, or is erased.
DELETE FROM parked WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [parked_forget] Those of a generation that is gone.
DELETE FROM parked WHERE generation = $1;

-- [parked_at] The event because of which a user is parked in one generation.
SELECT position FROM parked WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [parked_why] Why a user is parked in the active generation.
SELECT p.position, p.reason, p.since FROM active_generation a
JOIN parked p ON p.generation = a.generation
WHERE p.partition = $1 AND p.stream_id = $2;

-- [parked_count] How many users are parked in the active generation.
SELECT count(*) FROM active_generation a
JOIN parked p ON p.generation = a.generation;

-- [parked_list] All that are parked in the active generation, in order.
SELECT p.partition, p.position, p.reason, p.since, s.application_id, s.user_id
FROM active_generation a
JOIN parked p ON p.generation = a.generation
JOIN userlog.streams s ON s.partition = p.partition AND s.stream_id = p.stream_id
ORDER BY p.partition, p.position;

-- [deleted_before] Users of a partition who were deleted before a time and are not parked, and up to which
-- position that is known. By the index of lists, one application after the other.
SELECT u.stream_id, u.application_id, u.user_id, c.position AS projected
FROM checkpoints c
CROSS JOIN (
    SELECT DISTINCT n.application_id FROM numbers n
    WHERE n.partition = $1 AND n.generation = (SELECT generation FROM active_generation)
) n
CROSS JOIN LATERAL (
    SELECT u.stream_id, u.application_id, u.user_id FROM users u
    WHERE u.partition = $1 AND u.application_id = n.application_id AND u.lifecycle = 3
        AND hashtext(u.application_id) & -4 | u.lifecycle::integer
            = hashtext(n.application_id) & -4 | 3
        AND u.generation = (SELECT generation FROM active_generation)
        AND u.occurred_at < $2 AND u.recorded_at < $2
        AND NOT EXISTS (
            SELECT FROM parked a WHERE a.partition = $1
                AND a.generation = u.generation AND a.stream_id = u.stream_id)
    ORDER BY u.occurred_at LIMIT $3
) u
WHERE c.partition = $1 AND c.generation = (SELECT generation FROM active_generation)
LIMIT $3;
