-- The statements of verify.

-- [verify_page] The log of one partition after a position and up to another, as it is stored. Times are
-- the bytes that are hashed, since somebody may have put some there that no calendar has.
SELECT e.position, e.kind, e.stream_id, timestamptz_send(e.occurred_at) AS occurred,
    timestamptz_send(e.recorded_at) AS recorded, e.identity, e.digest, e.leaf,
    e.payload, e.chain, s.stream_id IS NOT NULL AS has_stream, s.key_id, s.data_key,
    s.erased_position
FROM userlog.events e
LEFT JOIN userlog.streams s ON s.partition = e.partition AND s.stream_id = e.stream_id
WHERE e.partition = $1 AND e.position > $2 AND e.position <= $3
ORDER BY e.position
LIMIT $4;

-- [verify_users] The users of a partition between two ids, and what stands in the log where they say that
-- they were erased.
SELECT s.partition, s.stream_id, s.application_id, s.user_id, s.data_key IS NOT NULL AS has_key,
    s.erased_position, e.kind AS kind_there, e.stream_id AS stream_there
FROM userlog.streams s
LEFT JOIN LATERAL (
    SELECT e.kind, e.stream_id FROM userlog.events e
    WHERE e.partition = $1 AND e.position = s.erased_position LIMIT 1
) e ON true
WHERE s.partition = $1 AND s.stream_id >= $2 AND s.stream_id <= $3
    AND ($5::boolean OR s.stream_id > $2)
ORDER BY s.stream_id LIMIT $4;

-- [first_event] Where a user's events begin.
SELECT min(position) FROM userlog.events WHERE partition = $1 AND stream_id = $2;

-- [users_about] About how many users there are, as the last ANALYZE or vacuum counted them.
SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'userlog.streams'::regclass;

-- [batch_end_from] The first event of some with which a batch ended.
SELECT position FROM userlog.events
WHERE partition = $1 AND position >= $2 AND position < $3 AND chain IS NOT NULL
ORDER BY position LIMIT 1;

-- [beyond_head] The first event before the first position or behind the head, where append() leaves none.
SELECT coalesce(
    (SELECT min(e.position) FROM userlog.events e WHERE e.partition = $1 AND e.position < 1),
    (SELECT min(e.position) FROM userlog.log_head h
        JOIN userlog.events e ON e.partition = h.partition AND e.position > h.position
        WHERE h.partition = $1));

-- [outermost] The first and the last partition in which there is something.
SELECT least((SELECT min(partition) FROM userlog.events),
        (SELECT min(partition) FROM userlog.streams),
        (SELECT min(partition) FROM userlog.audit)) AS first,
    greatest((SELECT max(partition) FROM userlog.events),
        (SELECT max(partition) FROM userlog.streams),
        (SELECT max(partition) FROM userlog.audit)) AS last;

-- [is_unique] Whether an index is there that lets no event be in a partition twice.
SELECT EXISTS (
    SELECT FROM pg_index i WHERE i.indrelid = 'userlog.events'::regclass
        AND i.indisunique AND i.indisvalid AND i.indisready AND i.indpred IS NULL
        AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)) = '{identity,partition}');

-- [copied_event] The first event of a partition that was there before.
SELECT min(c.position) FROM (
    SELECT max(position) AS position FROM userlog.events WHERE partition = $1
    GROUP BY identity HAVING count(*) > 1) c;

-- [batch_end] An event, and the hash over everything up to it, if a batch ended there.
SELECT position, timestamptz_send(recorded_at) AS recorded, chain FROM userlog.events
WHERE partition = $1 AND position = $2;

-- [checkpoint_beyond] A projection's checkpoint that is behind the head.
SELECT max(c.position) FROM userlog.checkpoints c
JOIN userlog.log_head h ON h.partition = c.partition AND c.position > h.position
WHERE c.partition = $1;

-- [chains_at] The hashes over everything up to an event, and up to a row of the audit, and where the
-- audit began.
SELECT (SELECT since FROM userlog.audit_head WHERE partition = $1) AS since,
    (SELECT chain FROM userlog.events WHERE partition = $1 AND position = $2) AS chain,
    (SELECT chain FROM userlog.audit WHERE partition = $1 AND number = $3) AS audit_chain;

-- [signed_page] Signed heads of a partition after one, and the hashes that are there now.
SELECT s.partition, s.position, s.audit_number, timestamptz_send(s.signed_at) AS signed, s.note,
    e.chain, a.chain AS audit_chain
FROM userlog.signed_heads s
LEFT JOIN userlog.events e ON e.partition = s.partition AND e.position = s.position
LEFT JOIN userlog.audit a ON a.partition = s.partition AND a.number = s.audit_number
WHERE s.partition = $1 AND (s.position, s.audit_number) > ($2::bigint, $3::bigint)
ORDER BY s.position, s.audit_number LIMIT $4;

-- [signed_elsewhere] Signed heads of partitions that there are not.
SELECT partition, min(position) AS position FROM userlog.signed_heads
WHERE partition >= $1 OR partition < 0 GROUP BY partition ORDER BY partition;

-- [verified] Note what was found of a partition up to a position.
INSERT INTO userlog.verifications (partition, position, passed) VALUES ($1, $2, $3)
ON CONFLICT (partition) DO UPDATE
SET position = excluded.position, passed = excluded.passed, verified_at = excluded.verified_at;

-- [audit_page] The audit of one partition after a number and up to another, as it is stored.
SELECT partition, number, timestamptz_send(recorded_at) AS recorded, stream_id, position, sealed, chain FROM userlog.audit
WHERE partition = $1 AND number > $2 AND number <= $3 ORDER BY number;

-- [beyond_audit_head] The first row before the first number or behind the end of the audit, where
-- audit() leaves none.
SELECT coalesce(
    (SELECT min(a.number) FROM userlog.audit a WHERE a.partition = $1 AND a.number < 1),
    (SELECT min(a.number) FROM userlog.audit_head h
        JOIN userlog.audit a ON a.partition = h.partition AND a.number > h.number
        WHERE h.partition = $1));

-- [copied_audit] The first row that holds what another one holds. Each is sealed with a nonce of its own.
SELECT min(c.number) FROM (
    SELECT max(number) AS number FROM userlog.audit WHERE partition = $1
    GROUP BY sealed HAVING count(*) > 1) c;

-- [audit_since] Where the audit began, and what it was not behind: the end of the log, its own first
-- erasure, and the first signed head.
SELECT h.since, least(
    (SELECT min(position) FROM userlog.log_head WHERE partition = $1),
    (SELECT min(position) - 1 FROM userlog.audit WHERE partition = $1),
    (SELECT min(position) FROM userlog.signed_heads WHERE partition = $1)) AS latest
FROM userlog.audit_head h WHERE h.partition = $1;

-- [audit_head] The end of the audit in a partition.
SELECT number, chain FROM userlog.audit_head WHERE partition = $1;

-- [unaudited_erasure] The first erasure since the audit began that has no row in it.
SELECT min(s.erased_position) AS position FROM userlog.audit_head h
JOIN userlog.streams s ON s.partition = h.partition AND s.erased_position > h.since
WHERE h.partition = $1 AND NOT EXISTS (
    SELECT FROM userlog.audit a WHERE a.partition = $1 AND a.stream_id = s.stream_id
        AND a.position = s.erased_position);

-- [undone_erasure] The first erasure of the audit of which its user knows nothing.
SELECT min(a.position) AS position FROM userlog.audit a
LEFT JOIN userlog.streams s ON s.partition = a.partition AND s.stream_id = a.stream_id
WHERE a.partition = $1 AND a.position IS NOT NULL
    AND (s.erased_position IS DISTINCT FROM a.position OR s.data_key IS NOT NULL);
