-- The log's statements. append() itself is in schema.sql.

-- [append] One batch for one partition, in one round trip.
SELECT outcomes, positions
FROM userlog.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- [erase] Destroy a user's key and rows, and append user.erased; null if there is nothing to do.
SELECT userlog.erase($1, $2, $3, $4, $5, $6, $7);

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

-- [quarantine_put] Keep a delivery that could not be read, or count it once more.
SELECT userlog.quarantine_put($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- [quarantine_room] How many bytes are in quarantine, and whether this delivery is among them.
SELECT (SELECT coalesce(sum(bytes), 0)::bigint FROM userlog.quarantine_totals) AS bytes,
    EXISTS (SELECT FROM userlog.quarantine WHERE partition = $1 AND id = $2) AS known;

-- [quarantine_list] The newest in quarantine, without their bodies.
SELECT id, reason, detail, headers, first_seen, last_seen, times_seen
FROM userlog.quarantine ORDER BY last_seen DESC, id LIMIT $1;

-- [quarantine_get] One delivery in quarantine.
SELECT id, reason, detail, headers, first_seen, last_seen, times_seen, data_key, body
FROM userlog.quarantine WHERE partition = $1 AND id = $2;

-- [quarantine_keys] All in quarantine, or all with one reason, the oldest first.
SELECT id FROM userlog.quarantine
WHERE $1::text IS NULL OR reason = $1 ORDER BY first_seen, id;

-- [quarantine_remove] Throw one away, and take it off the totals; no row: there was none.
WITH gone AS (
    DELETE FROM userlog.quarantine WHERE partition = $1 AND id = $2 RETURNING bytes
)
UPDATE userlog.quarantine_totals t
SET deliveries = t.deliveries - 1, bytes = t.bytes - gone.bytes
FROM gone WHERE t.partition = $1
RETURNING t.partition;

-- [quarantine_count] How many deliveries are in quarantine.
SELECT coalesce(sum(deliveries), 0)::bigint FROM userlog.quarantine_totals;

-- [read_only] Whether a transaction that begins now may write nothing.
SELECT current_setting('transaction_read_only')::boolean;
