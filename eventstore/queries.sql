-- The log's statements. append() itself is in schema.sql.

-- [append] One batch for one partition, in one round trip.
SELECT outcomes, positions
FROM userlog.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- [erase] Destroy a user's key and rows, and append user.erased; nulls if there is nothing to do.
SELECT erased_position, quarantined
FROM userlog.erase($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- [heads] The end of every partition.
SELECT partition, position, chain, recorded_at FROM userlog.log_head ORDER BY partition;

-- [read_log] The log of one partition after a position, in order (docs/planner.md, 3).
SELECT e.position, e.kind, e.stream_id, e.occurred_at, e.recorded_at, e.identity, e.payload,
    s.application_id, s.user_id, s.key_id, s.data_key, s.erased_position
FROM userlog.events e
CROSS JOIN LATERAL (
    SELECT * FROM userlog.streams s
    WHERE s.partition = e.partition AND s.stream_id = e.stream_id LIMIT 1
) s
WHERE e.partition = $1 AND e.position > $2
ORDER BY e.position
LIMIT $3;

-- [read_page] The same, but no more rows than have $4 bytes, or one (docs/planner.md, 11).
SELECT * FROM (
    SELECT r.*, sum(octet_length(r.payload)) OVER so_far AS bytes
    FROM (
        SELECT e.position, e.kind, e.stream_id, e.occurred_at, e.recorded_at, e.identity, e.payload,
            s.application_id, s.user_id, s.key_id, s.data_key, s.erased_position
        FROM userlog.events e
        CROSS JOIN LATERAL (
            SELECT * FROM userlog.streams s
            WHERE s.partition = e.partition AND s.stream_id = e.stream_id LIMIT 1
        ) s
        WHERE e.partition = $1 AND e.position > $2
        ORDER BY e.position
        LIMIT $3
    ) r
    WINDOW so_far AS (ORDER BY r.position ROWS UNBOUNDED PRECEDING)
) p
WHERE p.bytes <= $4::bigint OR p.bytes = octet_length(p.payload)
ORDER BY p.position;

-- [read_streams] All events of some users up to a position, user by user (docs/planner.md, 3 and 8).
SELECT e.*, s.application_id, s.user_id, s.key_id, s.data_key, s.erased_position
FROM unnest($2::uuid[]) AS u (stream_id)
CROSS JOIN LATERAL (
    SELECT * FROM userlog.streams s
    WHERE s.partition = $1 AND s.stream_id = u.stream_id LIMIT 1
) s
CROSS JOIN LATERAL (
    SELECT e.position, e.kind, e.stream_id, e.occurred_at, e.recorded_at, e.identity, e.payload
    FROM userlog.events e
    WHERE e.partition = $1 AND e.stream_id = u.stream_id AND e.position <= $3
    ORDER BY e.occurred_at, e.position
) e;

-- [read_range] All events of a range of users up to a position, user by user.
SELECT e.stream_id, e.position, e.kind, e.occurred_at, e.recorded_at, e.identity, e.payload,
    s.application_id, s.user_id, s.key_id, s.data_key, s.erased_position
FROM userlog.events e
JOIN userlog.streams s ON s.partition = e.partition AND s.stream_id = e.stream_id
WHERE e.partition = $1 AND e.stream_id BETWEEN $2 AND $3 AND e.position <= $4
ORDER BY e.stream_id, e.occurred_at, e.position;

-- [read_stream] One user's events that were recorded by $3.
SELECT e.position, e.kind, e.stream_id, e.occurred_at, e.recorded_at, e.identity, e.payload,
    s.application_id, s.user_id, s.key_id, s.data_key, s.erased_position
FROM userlog.events e
JOIN userlog.streams s ON s.partition = e.partition AND s.stream_id = e.stream_id
WHERE e.partition = $1 AND e.stream_id = $2 AND e.recorded_at <= $3
ORDER BY e.position;

-- [stream_erased] When has this user been erased? No row: never heard of.
SELECT erased_at FROM userlog.streams WHERE partition = $1 AND stream_id = $2;

-- [verify_page] The log of one partition after a position, as it is stored, for `verify`.
SELECT e.position, e.kind, e.stream_id, e.occurred_at, e.recorded_at, e.identity, e.digest, e.leaf,
    e.payload, e.chain, s.stream_id IS NOT NULL AS has_stream, s.key_id, s.data_key
FROM userlog.events e
LEFT JOIN userlog.streams s ON s.partition = e.partition AND s.stream_id = e.stream_id
WHERE e.partition = $1 AND e.position > $2
ORDER BY e.position
LIMIT $3;

-- [beyond_head] The first event behind the head, which append() never leaves there.
SELECT min(e.position) FROM userlog.log_head h
JOIN userlog.events e ON e.partition = h.partition AND e.position > h.position
WHERE h.partition = $1;

-- [chain_at] The hash over everything up to a position, if a batch ended there.
SELECT chain FROM userlog.events WHERE partition = $1 AND position = $2;

-- [verified] Note what was found of a partition up to a position.
INSERT INTO userlog.verifications (partition, position, passed) VALUES ($1, $2, $3)
ON CONFLICT (partition) DO UPDATE
SET position = excluded.position, passed = excluded.passed, verified_at = excluded.verified_at;

-- [quarantine_put] Keep what could not be read, or count it once more; the ids of what is kept.
SELECT userlog.quarantine_put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- [quarantine_room] How many bytes are in quarantine, and which of these are among them.
SELECT (SELECT coalesce(sum(bytes), 0)::bigint FROM userlog.quarantine_totals) AS bytes,
    ARRAY(SELECT q.id FROM unnest($1::integer[], $2::uuid[]) AS w (partition, id)
        JOIN userlog.quarantine q ON q.partition = w.partition AND q.id = w.id) AS known;

-- [quarantine_list] The newest in quarantine, without their bodies.
SELECT id, application_id, user_id, reason, detail, headers, first_seen, last_seen, times_seen
FROM userlog.quarantine ORDER BY last_seen DESC, id LIMIT $1;

-- [quarantine_get] One in quarantine, in whichever of these partitions it is.
SELECT id, application_id, user_id, reason, detail, headers, first_seen, last_seen, times_seen,
    data_key, body
FROM userlog.quarantine WHERE partition = ANY($1::integer[]) AND id = $2 ORDER BY partition LIMIT 1;

-- [quarantine_of_user] What is in quarantine about a user, the oldest first.
SELECT id, application_id, user_id, reason, detail, headers, first_seen, last_seen, times_seen,
    data_key, body
FROM userlog.quarantine WHERE partition = $1 AND stream_id = $2 ORDER BY first_seen, id;

-- [quarantine_unattributed] What is about users whose ids could not be read, the newest first.
SELECT id FROM userlog.quarantine WHERE stream_id IS NULL ORDER BY last_seen DESC, id LIMIT $1;

-- [quarantine_keys] All in quarantine, or all with one reason, the oldest first.
SELECT id FROM userlog.quarantine
WHERE $1::text IS NULL OR reason = $1 ORDER BY first_seen, id;

-- [quarantine_remove] Throw one away, and take it off the totals; no row: there was none.
WITH gone AS (
    DELETE FROM userlog.quarantine WHERE partition = ANY($1::integer[]) AND id = $2
    RETURNING partition, bytes
)
UPDATE userlog.quarantine_totals t
SET deliveries = t.deliveries - 1, bytes = t.bytes - gone.bytes
FROM gone WHERE t.partition = gone.partition
RETURNING t.partition;

-- [quarantine_expired] Throw some away that were last seen before a time, and take them off the totals.
WITH gone AS (
    DELETE FROM userlog.quarantine q USING (
        SELECT o.id FROM userlog.quarantine o WHERE o.partition = $1 AND o.last_seen < $2
        ORDER BY o.last_seen LIMIT $3 FOR UPDATE SKIP LOCKED
    ) old WHERE q.partition = $1 AND q.id = old.id RETURNING q.bytes
)
UPDATE userlog.quarantine_totals t
SET deliveries = t.deliveries - g.deliveries, bytes = t.bytes - g.bytes
FROM (SELECT count(*) AS deliveries, sum(gone.bytes) AS bytes FROM gone) g
WHERE t.partition = $1 AND g.deliveries > 0
RETURNING g.deliveries;

-- [quarantine_count] How many deliveries are in quarantine.
SELECT coalesce(sum(deliveries), 0)::bigint FROM userlog.quarantine_totals;

-- [read_only] Whether a transaction that begins now may write nothing.
SELECT current_setting('transaction_read_only')::boolean;

-- [audit_write] Write a row of the audit.
SELECT userlog.audit($1, $2, $3, $4);

-- [audit_of_user] The rows about a user, the oldest first.
SELECT partition, number, recorded_at, stream_id, position, sealed FROM userlog.audit
WHERE partition = $1 AND stream_id = $2 ORDER BY number;

-- [audit_page] The audit of one partition after a number and up to another, as it is stored.
SELECT partition, number, recorded_at, stream_id, position, sealed, chain FROM userlog.audit
WHERE partition = $1 AND number > $2 AND number <= $3 ORDER BY number;

-- [beyond_audit_head] The first row behind the end of the audit, which audit() never leaves there.
SELECT min(a.number) FROM userlog.audit_head h
JOIN userlog.audit a ON a.partition = h.partition AND a.number > h.number
WHERE h.partition = $1;

-- [audit_head] The end of the audit in a partition.
SELECT number, chain FROM userlog.audit_head WHERE partition = $1;

-- [unaudited_erasure] The first erasure since the audit began that has no row in it.
SELECT min(s.erased_position) AS position FROM userlog.audit_head h
JOIN userlog.streams s ON s.partition = h.partition AND s.erased_position > h.since
WHERE h.partition = $1 AND NOT EXISTS (
    SELECT FROM userlog.audit a WHERE a.partition = $1 AND a.stream_id = s.stream_id
        AND a.position = s.erased_position);

-- [erasures] Who was erased in a partition, and the audit's row about it.
SELECT s.partition, s.erased_position AS position, s.stream_id, s.application_id, s.user_id,
    s.erased_at, a.sealed
FROM userlog.streams s
LEFT JOIN userlog.audit a ON a.partition = s.partition AND a.stream_id = s.stream_id
    AND a.position = s.erased_position
WHERE s.partition = $1 AND s.erased_position IS NOT NULL ORDER BY s.erased_position;

-- [streams_named] Users by the ids of their streams, in whichever of these partitions they are.
SELECT partition, stream_id, application_id, user_id FROM userlog.streams
WHERE partition = ANY($1::integer[]) AND stream_id = ANY($2::uuid[]);
