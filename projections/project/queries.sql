-- The statements of projecting: checkpoints, parked users, stuck sessions.

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

-- [checkpoint_of] The same, without holding it.
SELECT position FROM userlog.checkpoints WHERE partition = $1 AND projection = $2 AND generation = $3;

-- [checkpoint] How far the active generation of a partition has come.
SELECT c.position, c.generation FROM userlog.projections p
JOIN userlog.checkpoints c ON c.projection = p.name AND c.generation = p.active_generation
WHERE p.name = 'users' AND c.partition = $1;

-- [checkpoint_move] Everything up to here is in the read model now.
UPDATE userlog.checkpoints SET position = $4, updated_at = now()
WHERE partition = $1 AND projection = $2 AND generation = $3;

-- [generations] The generations of a projection in one state, the newest first.
SELECT generation FROM userlog.generations
WHERE projection = $1 AND state = $2 ORDER BY generation DESC;

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
