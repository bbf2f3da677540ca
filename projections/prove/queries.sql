-- The statements of proofs and scrubs.

-- [not_compared] Users whose rows are not those of the log up to a position, and need not be:
-- their erasure, which takes the rows at once, stands behind it, or they are parked.
SELECT e.stream_id FROM userlog.events e
WHERE e.partition = $1 AND e.position > $2 AND e.kind = 4
UNION SELECT a.stream_id FROM parked a WHERE a.partition = $1 AND a.generation = $3;

-- [key] A user's key.
SELECT stream_id, key_id, data_key FROM userlog.streams WHERE partition = $1 AND stream_id = $2;

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
