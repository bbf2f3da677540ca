-- The statements of questions. Lists name their generation by a subquery (docs/planner.md, 7), and
-- end with the last row that is within so many bytes, or their first (docs/planner.md, 11).

-- [user] One user in the active generation, and why they are parked, if they are.
SELECT u.partition, u.application_id, u.user_id, u.company_id, u.lifecycle, u.state, u.position,
    u.kind, u.occurred_at, u.recorded_at, a.position AS stale_position, a.reason AS stale_reason, a.since AS stale_since
FROM users u
LEFT JOIN parked a ON a.partition = u.partition AND a.generation = u.generation
    AND a.stream_id = u.stream_id
WHERE u.partition = $1 AND u.stream_id = $2
    AND u.generation = (SELECT generation FROM active_generation);

-- [history_asc] A user's history from an entry on, oldest first, below an order key.
SELECT * FROM (
    SELECT r.*, count(*) OVER () AS found, sum(octet_length(r.changes)) OVER so_far AS bytes
    FROM (
        SELECT h.order_key, h.position, h.kind, h.occurred_at, h.recorded_at, h.stated_at, h.late,
            h.summary, h.changes
        FROM history h
        WHERE h.partition = $1 AND h.stream_id = $2
            AND h.generation = (SELECT generation FROM active_generation)
            AND ($3::bytea IS NULL OR (h.order_key, h.position) > ($3, $4::bigint))
            AND h.order_key < $5
        ORDER BY h.order_key, h.position
        LIMIT $6
    ) r
    WINDOW so_far AS (ORDER BY r.order_key, r.position ROWS UNBOUNDED PRECEDING)
) p
WHERE p.bytes <= $7::bigint OR p.bytes = octet_length(p.changes)
ORDER BY p.order_key, p.position;

-- [history_desc] The same, newest first.
SELECT * FROM (
    SELECT r.*, count(*) OVER () AS found, sum(octet_length(r.changes)) OVER so_far AS bytes
    FROM (
        SELECT h.order_key, h.position, h.kind, h.occurred_at, h.recorded_at, h.stated_at, h.late,
            h.summary, h.changes
        FROM history h
        WHERE h.partition = $1 AND h.stream_id = $2
            AND h.generation = (SELECT generation FROM active_generation)
            AND ($3::bytea IS NULL OR (h.order_key, h.position) < ($3, $4::bigint))
            AND h.order_key < $5
        ORDER BY h.order_key DESC, h.position DESC
        LIMIT $6
    ) r
    WINDOW so_far AS (ORDER BY r.order_key DESC, r.position DESC ROWS UNBOUNDED PRECEDING)
) p
WHERE p.bytes <= $7::bigint OR p.bytes = octet_length(p.changes)
ORDER BY p.order_key DESC, p.position DESC;

-- [events_back] A user's events from a moment back, the newest first, of those recorded by $5, at
-- positions up to $6. Each row has the end of the log besides and, for the first page, which has
-- no bound $6, the user's row in the active generation: it names the fields to look for, if every event
-- of the user is in it. It is not if the user is parked, or if one of theirs is among the events that
-- are not projected yet, of which at most 1,000 are looked at (docs/planner.md, 10).
SELECT h.position AS head, u.state, u.since, u.company_id, s.application_id, s.user_id, s.key_id,
    s.data_key, s.erased_position, e.*
FROM userlog.streams s
JOIN userlog.log_head h ON h.partition = s.partition
LEFT JOIN LATERAL (
    SELECT u.state, u.since, u.company_id, h.position AS until
    FROM active_generation g
    JOIN checkpoints c ON c.generation = g.generation
    CROSS JOIN LATERAL (
        SELECT u.state, u.since, u.company_id FROM users u
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

-- [users_found] Users who have a term and all others of a list, the most recently changed first.
SELECT * FROM (
    SELECT r.*, count(*) OVER () AS found, sum(octet_length(r.state)) OVER so_far AS bytes
    FROM (
        SELECT u.partition, u.stream_id, u.application_id, u.user_id, u.company_id, u.lifecycle, u.state,
            u.position, u.kind, u.occurred_at, u.recorded_at, a.position AS stale_position,
            a.reason AS stale_reason, a.since AS stale_since
        FROM active_generation g
        JOIN terms t ON t.generation = g.generation
        JOIN users u ON u.partition = t.partition AND u.generation = t.generation
            AND u.stream_id = t.stream_id
        LEFT JOIN parked a ON a.partition = u.partition AND a.generation = u.generation
            AND a.stream_id = u.stream_id
        WHERE t.partition = ANY($1) AND t.term = $2 AND u.lifecycle = ANY($4)
            AND u.occurred_at >= $5 AND (u.occurred_at, u.stream_id) < ($6, $7::uuid)
            AND NOT EXISTS (
                SELECT FROM unnest($3::bytea[]) AS wanted WHERE NOT EXISTS (
                    SELECT FROM terms o
                    WHERE o.partition = t.partition AND o.generation = t.generation
                        AND o.stream_id = t.stream_id AND o.term = wanted
                )
            )
        ORDER BY u.occurred_at DESC, u.stream_id DESC
        LIMIT $8
    ) r
    WINDOW so_far AS (ORDER BY r.occurred_at DESC, r.stream_id DESC ROWS UNBOUNDED PRECEDING)
) p
WHERE p.bytes <= $9::bigint OR p.bytes = octet_length(p.state)
ORDER BY p.occurred_at DESC, p.stream_id DESC;

-- [users_listed] An application's users, the most recently changed first.
SELECT * FROM (
    SELECT r.*, count(*) OVER () AS found, sum(octet_length(r.state)) OVER so_far AS bytes
    FROM (
        SELECT u.*, a.position AS stale_position, a.reason AS stale_reason, a.since AS stale_since
        FROM unnest($1::integer[]) AS part CROSS JOIN unnest($3::text[]) AS life
        CROSS JOIN LATERAL (
            SELECT u.partition, u.generation, u.stream_id, u.application_id, u.user_id, u.company_id,
                u.lifecycle, u.state, u.position, u.kind, u.occurred_at, u.recorded_at
            FROM users u
            WHERE u.partition = part AND u.application_id = $2 AND u.lifecycle = life
                AND u.generation = (SELECT generation FROM active_generation)
                AND u.occurred_at >= $4 AND (u.occurred_at, u.stream_id) < ($5, $6::uuid)
            ORDER BY u.occurred_at DESC, u.stream_id DESC
            LIMIT $7
        ) u
        LEFT JOIN parked a ON a.partition = u.partition AND a.generation = u.generation
            AND a.stream_id = u.stream_id
        ORDER BY u.occurred_at DESC, u.stream_id DESC
        LIMIT $7
    ) r
    WINDOW so_far AS (ORDER BY r.occurred_at DESC, r.stream_id DESC ROWS UNBOUNDED PRECEDING)
) p
WHERE p.bytes <= $8::bigint OR p.bytes = octet_length(p.state)
ORDER BY p.occurred_at DESC, p.stream_id DESC;

-- [activity] An application's days until $4, all partitions together; those before $3 are one row
-- without a day. Read from the index alone (docs/planner.md, 7 and 9).
SELECT CASE WHEN a.day >= $3::date THEN a.day END AS day, sum(a.created) AS created,
    sum(a.deleted) AS deleted, sum(a.blocked) AS blocked, sum(a.active) AS active
FROM unnest($1::integer[]) AS part CROSS JOIN LATERAL (
    SELECT a.day, a.created, a.deleted, a.blocked, a.active FROM activity a
    WHERE a.partition = part AND a.application_id = $2 AND a.day <= $4::date
        AND a.generation = (SELECT generation FROM active_generation)
    OFFSET 0
) a
GROUP BY 1
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
