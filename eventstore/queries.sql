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

-- [read_page] The same, but no more rows than have $4 bytes, or one (docs/planner.md, 11); with the hash of
-- the event that they follow.
SELECT * FROM (
    SELECT r.*, sum(octet_length(r.payload)) OVER so_far AS bytes, (
        SELECT f.leaf FROM userlog.events f WHERE f.partition = $1 AND f.position = $2
    ) AS leaf_before
    FROM (
        SELECT e.leaf, e.position, e.kind, e.stream_id, e.occurred_at, e.recorded_at, e.identity, e.payload,
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

-- [place] The end of a partition, and the hash of one of its events, if it is there.
SELECT h.position AS head, e.leaf FROM userlog.log_head h
LEFT JOIN userlog.events e ON e.partition = h.partition AND e.position = $2
WHERE h.partition = $1;

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

-- [quarantine_put] Keep what could not be read, or count it once more; the ids of what is kept.
SELECT userlog.quarantine_put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- [quarantine_room] How many bytes are in quarantine, and which of these are among them.
SELECT (SELECT coalesce(sum(bytes), 0)::bigint FROM userlog.quarantine_totals) AS bytes,
    ARRAY(SELECT q.id FROM unnest($1::integer[], $2::uuid[]) AS w (partition, id)
        JOIN userlog.quarantine q ON q.partition = w.partition AND q.id = w.id) AS known;

-- [quarantine_list] The newest in quarantine, without their bodies.
SELECT id, application_id, user_id, reason, detail, headers, first_seen, last_seen, times_seen
FROM userlog.quarantine ORDER BY last_seen DESC, id LIMIT $1;

-- [quarantine_get] One in quarantine, in whichever of these partitions it is; first what has no ids, as a
-- version before schema 5 has kept it.
SELECT id, application_id, user_id, reason, detail, headers, first_seen, last_seen, times_seen,
    data_key, body
FROM userlog.quarantine WHERE partition = ANY($1::integer[]) AND id = $2
ORDER BY stream_id IS NOT NULL, partition LIMIT 1;

-- [quarantine_of_user] What is in quarantine about a user, the oldest first.
SELECT id FROM userlog.quarantine WHERE partition = $1 AND stream_id = $2 ORDER BY first_seen, id;

-- [quarantine_unattributed] What is about users whose ids could not be read, the newest first.
SELECT id FROM userlog.quarantine WHERE stream_id IS NULL ORDER BY last_seen DESC, id LIMIT $1;

-- [quarantine_keys] All in quarantine, or all with one reason, the oldest first.
SELECT id FROM userlog.quarantine
WHERE $1::text IS NULL OR reason = $1 ORDER BY first_seen, id;

-- [quarantine_remove] Throw one away, or of it only what has no user's ids ($3), and take it off the totals;
-- no row: there was none.
WITH gone AS (
    DELETE FROM userlog.quarantine WHERE partition = ANY($1::integer[]) AND id = $2
        AND (stream_id IS NULL OR NOT $3::boolean)
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

-- [quarantine_due] How much in quarantine was last seen before a time.
SELECT count(*) FROM userlog.quarantine WHERE last_seen < $1;

-- [quarantine_count] How many deliveries are in quarantine.
SELECT coalesce(sum(deliveries), 0)::bigint FROM userlog.quarantine_totals;

-- [read_only] Whether a transaction that begins now may write nothing.
SELECT current_setting('transaction_read_only')::boolean;

-- [audit_write] Write a row of the audit.
SELECT userlog.audit($1, $2, $3, $4);

-- [audit_of_user] The rows about a user, the oldest first.
SELECT partition, number, recorded_at, stream_id, position, sealed FROM userlog.audit
WHERE partition = $1 AND stream_id = $2 ORDER BY number;

-- [erasures] Who was erased in a partition, and the audit's row about it.
SELECT s.partition, s.erased_position AS position, s.stream_id, s.application_id, s.user_id,
    s.erased_at, a.sealed
FROM userlog.streams s
LEFT JOIN userlog.audit a ON a.partition = s.partition AND a.stream_id = s.stream_id
    AND a.position = s.erased_position
WHERE s.partition = $1 AND s.erased_position IS NOT NULL ORDER BY s.erased_position;

-- [streams_named] Users by the ids of their streams, in whichever of these partitions they are, also of
-- whom there is nothing but what is in quarantine.
SELECT partition, stream_id, application_id, user_id FROM userlog.streams
WHERE partition = ANY($1::integer[]) AND stream_id = ANY($2::uuid[])
UNION
SELECT partition, stream_id, application_id, user_id FROM userlog.quarantine
WHERE partition = ANY($1::integer[]) AND stream_id = ANY($2::uuid[]);

-- [heads_to_sign] The heads that have moved since they were last signed, and are due.
SELECT h.partition, h.position, h.chain, a.number AS audit_number, a.chain AS audit_chain,
    date_trunc('milliseconds', clock_timestamp()) AS now
FROM userlog.log_head h
JOIN userlog.audit_head a ON a.partition = h.partition
LEFT JOIN LATERAL (
    SELECT s.position, s.audit_number, s.signed_at FROM userlog.signed_heads s
    WHERE s.partition = h.partition ORDER BY s.position DESC, s.audit_number DESC LIMIT 1
) s ON true
WHERE (h.position > 0 OR a.number > 0) AND (s.position IS NULL
    OR h.position - s.position >= $1::bigint
    OR (h.position, a.number) <> (s.position, s.audit_number)
        AND s.signed_at <= clock_timestamp() - $2::interval)
ORDER BY h.partition;

-- [signed_head_new] Keep one, unless another process has signed the same.
INSERT INTO userlog.signed_heads (partition, position, audit_number, signed_at, note)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT (partition, position, audit_number) DO NOTHING;

-- [signed_heads_newest] The newest of each partition.
SELECT h.partition, s.position, s.signed_at, s.note FROM userlog.log_head h
CROSS JOIN LATERAL (
    SELECT * FROM userlog.signed_heads s
    WHERE s.partition = h.partition ORDER BY s.position DESC, s.audit_number DESC LIMIT 1
) s
ORDER BY h.partition;
