-- The statements of questions. Lists name their generation by a subquery (docs/planner.md, 7), and
-- end with the last row that is within so many sealed bytes, or their first (docs/planner.md, 11). With
-- each row comes its user's key.

-- [user] One user in the active generation, and why they are parked, if they are.
SELECT u.partition, u.stream_id, u.application_id, u.user_id, u.lifecycle, u.tie_break, u.position,
    u.kind, u.occurred_at, u.recorded_at, u.sealed, s.key_id, s.data_key,
    a.position AS stale_position, a.reason AS stale_reason, a.since AS stale_since
FROM users u
JOIN userlog.streams s ON s.partition = u.partition AND s.stream_id = u.stream_id
LEFT JOIN parked a ON a.partition = u.partition AND a.generation = u.generation
    AND a.stream_id = u.stream_id
WHERE u.partition = $1 AND u.stream_id = $2
    AND u.generation = (SELECT generation FROM active_generation);

-- [history_asc] A user's history from an entry on, oldest first, below an order key.
SELECT p.*, s.key_id, s.data_key FROM (
    SELECT r.*, count(*) OVER () AS found, sum(octet_length(r.sealed)) OVER so_far AS bytes
    FROM (
        SELECT h.stream_id, h.tie_break, h.position, h.kind, h.occurred_at, h.recorded_at, h.late,
            h.sealed
        FROM history h
        WHERE h.partition = $1 AND h.stream_id = $2
            AND h.generation = (SELECT generation FROM active_generation)
            AND ($3::timestamptz IS NULL
                OR (h.occurred_at, h.kind, h.tie_break) > ($3, $4::smallint, $5::bytea))
            AND h.occurred_at <= $6
        ORDER BY h.occurred_at, h.kind, h.tie_break
        LIMIT $7
    ) r
    WINDOW so_far AS (
        ORDER BY r.occurred_at, r.kind, r.tie_break ROWS UNBOUNDED PRECEDING
    )
) p
JOIN userlog.streams s ON s.partition = $1 AND s.stream_id = $2
WHERE p.bytes <= $8::bigint OR p.bytes = octet_length(p.sealed)
ORDER BY p.occurred_at, p.kind, p.tie_break;

-- [history_desc] The same, newest first.
SELECT p.*, s.key_id, s.data_key FROM (
    SELECT r.*, count(*) OVER () AS found, sum(octet_length(r.sealed)) OVER so_far AS bytes
    FROM (
        SELECT h.stream_id, h.tie_break, h.position, h.kind, h.occurred_at, h.recorded_at, h.late,
            h.sealed
        FROM history h
        WHERE h.partition = $1 AND h.stream_id = $2
            AND h.generation = (SELECT generation FROM active_generation)
            AND ($3::timestamptz IS NULL
                OR (h.occurred_at, h.kind, h.tie_break) < ($3, $4::smallint, $5::bytea))
            AND h.occurred_at <= $6
        ORDER BY h.occurred_at DESC, h.kind DESC, h.tie_break DESC
        LIMIT $7
    ) r
    WINDOW so_far AS (
        ORDER BY r.occurred_at DESC, r.kind DESC, r.tie_break DESC ROWS UNBOUNDED PRECEDING
    )
) p
JOIN userlog.streams s ON s.partition = $1 AND s.stream_id = $2
WHERE p.bytes <= $8::bigint OR p.bytes = octet_length(p.sealed)
ORDER BY p.occurred_at DESC, p.kind DESC, p.tie_break DESC;

-- [events_back] A user's events from a moment back, the newest first, of those recorded by $5, at
-- positions up to $6. Each row has the end of the log besides and, for the first page, which has
-- no bound $6, the user's row in the active generation: it names the fields to look for, if every event
-- of the user is in it. It is not if the user is parked, or if one of theirs is among the events that
-- are not projected yet, of which at most 1,000 are looked at (docs/planner.md, 10).
SELECT h.position AS head, u.sealed, u.user_position, u.user_occurred_at, u.user_kind,
    u.user_tie_break, s.application_id, s.user_id, s.key_id, s.data_key, s.erased_position, e.*
FROM userlog.streams s
JOIN userlog.log_head h ON h.partition = s.partition
LEFT JOIN LATERAL (
    SELECT u.sealed, u.position AS user_position, u.occurred_at AS user_occurred_at,
        u.kind AS user_kind, u.tie_break AS user_tie_break, h.position AS until
    FROM active_generation g
    JOIN checkpoints c ON c.generation = g.generation
    CROSS JOIN LATERAL (
        SELECT u.sealed, u.position, u.occurred_at, u.kind, u.tie_break FROM users u
        WHERE u.partition = $1 AND u.generation = g.generation AND u.stream_id = $2 LIMIT 1
    ) u
    WHERE c.partition = $1
        AND h.position < $6::bigint AND h.position - c.position <= 1000
        AND NOT EXISTS (
            SELECT FROM parked a WHERE a.partition = $1
                AND a.generation = g.generation AND a.stream_id = $2
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

-- [users_found] An application's users who have $2 terms at once, of the several choices in $3, the most
-- recently changed first.
SELECT p.*, s.key_id, s.data_key FROM (
    SELECT r.*, count(*) OVER () AS found, sum(octet_length(r.sealed)) OVER so_far AS bytes
    FROM (
        SELECT u.*, a.position AS stale_position, a.reason AS stale_reason, a.since AS stale_since
        FROM (
            SELECT DISTINCT part, one.stream_id FROM unnest($1::integer[]) AS part
            CROSS JOIN generate_series(0, cardinality($3::uuid[]) / $2::integer - 1) AS choice
            CROSS JOIN LATERAL userlog.users_with(part, (SELECT generation FROM active_generation),
                $3[choice * $2 + 1 : choice * $2 + $2]) AS one (stream_id)
        ) f
        CROSS JOIN LATERAL (
            SELECT u.partition, u.generation, u.stream_id, u.application_id, u.user_id, u.lifecycle,
                u.tie_break, u.position, u.kind, u.occurred_at, u.recorded_at, u.sealed
            FROM users u
            WHERE u.partition = f.part AND u.stream_id = f.stream_id
                AND u.generation = (SELECT generation FROM active_generation) LIMIT 1
        ) u
        LEFT JOIN parked a ON a.partition = u.partition AND a.generation = u.generation
            AND a.stream_id = u.stream_id
        WHERE u.application_id = $4 AND u.lifecycle = ANY($5::smallint[]) AND u.occurred_at >= $6
            AND (u.occurred_at, u.partition, u.position) < ($7, $8::integer, $9::bigint)
        ORDER BY u.occurred_at DESC, u.partition DESC, u.position DESC
        LIMIT $10
    ) r
    WINDOW so_far AS (
        ORDER BY r.occurred_at DESC, r.partition DESC, r.position DESC ROWS UNBOUNDED PRECEDING
    )
) p
CROSS JOIN LATERAL (
    SELECT s.key_id, s.data_key FROM userlog.streams s
    WHERE s.partition = p.partition AND s.stream_id = p.stream_id LIMIT 1
) s
WHERE p.bytes <= $11::bigint OR p.bytes = octet_length(p.sealed)
ORDER BY p.occurred_at DESC, p.partition DESC, p.position DESC;

-- [users_listed] An application's users, the most recently changed first.
SELECT p.*, s.key_id, s.data_key FROM (
    SELECT r.*, count(*) OVER () AS found, sum(octet_length(r.sealed)) OVER so_far AS bytes
    FROM (
        SELECT u.*, a.position AS stale_position, a.reason AS stale_reason, a.since AS stale_since
        FROM unnest($1::integer[]) AS part CROSS JOIN unnest($3::smallint[]) AS life
        CROSS JOIN LATERAL (
            SELECT u.partition, u.generation, u.stream_id, u.application_id, u.user_id, u.lifecycle,
                u.tie_break, u.position, u.kind, u.occurred_at, u.recorded_at, u.sealed
            FROM users u
            WHERE u.partition = part AND u.lifecycle = life AND u.application_id = $2
                AND hashtext(u.application_id) & -4 | u.lifecycle::integer
                    = hashtext($2) & -4 | life::integer
                AND u.generation = (SELECT generation FROM active_generation)
                AND u.occurred_at >= $4 AND (u.occurred_at, u.position) < ($5, CASE
                    WHEN part = $6::integer THEN $7::bigint WHEN part < $6 THEN 9223372036854775807
                    ELSE 0 END)
            ORDER BY u.occurred_at DESC, u.position DESC
            LIMIT $8
        ) u
        LEFT JOIN parked a ON a.partition = u.partition AND a.generation = u.generation
            AND a.stream_id = u.stream_id
        ORDER BY u.occurred_at DESC, u.partition DESC, u.position DESC
        LIMIT $8
    ) r
    WINDOW so_far AS (
        ORDER BY r.occurred_at DESC, r.partition DESC, r.position DESC ROWS UNBOUNDED PRECEDING
    )
) p
CROSS JOIN LATERAL (
    SELECT s.key_id, s.data_key FROM userlog.streams s
    WHERE s.partition = p.partition AND s.stream_id = p.stream_id LIMIT 1
) s
WHERE p.bytes <= $9::bigint OR p.bytes = octet_length(p.sealed)
ORDER BY p.occurred_at DESC, p.partition DESC, p.position DESC;

-- [numbers] An application's days until $4, all partitions together; those before $3 are one row
-- without a day (docs/planner.md, 7 and 9).
SELECT CASE WHEN n.day >= $3::date THEN n.day END AS day, sum(n.created) AS created,
    sum(n.deleted) AS deleted, sum(n.blocked) AS blocked, sum(n.reactivated) AS reactivated,
    sum(n.active) AS active, sum(n.events) AS events
FROM unnest($1::integer[]) AS part CROSS JOIN LATERAL (
    SELECT (n.quarter AT TIME ZONE 'UTC')::date AS day, n.created, n.deleted, n.blocked,
        n.reactivated, n.active, n.events
    FROM numbers n
    WHERE n.partition = part AND n.application_id = $2
        AND n.quarter < ($4::date + 1)::timestamp AT TIME ZONE 'UTC'
        AND n.generation = (SELECT generation FROM active_generation)
    OFFSET 0
) n
GROUP BY 1
HAVING sum(n.events) > 0
ORDER BY 1;

-- [status] Every partition's head, and how far each generation has come.
SELECT h.partition, h.position AS head, c.generation, g.state,
    g.generation = a.generation AS active, c.position,
    (SELECT e.recorded_at FROM userlog.events e
        WHERE e.partition = h.partition AND e.position = c.position + 1) AS oldest_waiting
FROM userlog.log_head h
JOIN checkpoints c ON c.partition = h.partition
JOIN generations g ON g.generation = c.generation
CROSS JOIN active_generation a
ORDER BY h.partition, c.generation;

-- [events_of_user] A user's events after one of them, by when they occurred.
SELECT e.position, e.kind, e.stream_id, e.occurred_at, e.recorded_at, e.identity, e.payload,
    s.application_id, s.user_id, s.key_id, s.data_key, s.erased_position
FROM userlog.events e
JOIN userlog.streams s ON s.partition = e.partition AND s.stream_id = e.stream_id
WHERE e.partition = $1 AND e.stream_id = $2 AND (e.occurred_at, e.position) > ($3, $4::bigint)
ORDER BY e.occurred_at, e.position LIMIT $5;

-- [users_page] The users of a partition after a stream's id, and why they are parked, if they are.
SELECT p.*, s.key_id, s.data_key,
    a.position AS stale_position, a.reason AS stale_reason, a.since AS stale_since
FROM (
    SELECT u.partition, u.generation, u.stream_id, u.application_id, u.user_id, u.lifecycle,
        u.tie_break, u.position, u.kind, u.occurred_at, u.recorded_at, u.sealed
    FROM users u
    WHERE u.partition = $1 AND u.stream_id > $2
        AND u.generation = (SELECT generation FROM active_generation)
    ORDER BY u.stream_id LIMIT $3
) p
JOIN userlog.streams s ON s.partition = p.partition AND s.stream_id = p.stream_id
LEFT JOIN parked a ON a.partition = p.partition AND a.generation = p.generation
    AND a.stream_id = p.stream_id
ORDER BY p.stream_id;

-- [users_counted] How many users some applications have, or all.
SELECT coalesce(sum(n.created), 0)::bigint FROM numbers n
WHERE n.generation = (SELECT generation FROM active_generation)
    AND ($1::text[] IS NULL OR n.application_id = ANY($1));
