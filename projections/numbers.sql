-- The statements of numbers. {counted} is what an entry of the history counts for, as in erase().

-- [counted] What an entry of the history counts for.
date_bin('15 minutes', h.occurred_at, 'epoch') AS quarter, (h.lifecycle_before = 0)::integer AS created,
    (h.lifecycle_after = 3 AND h.lifecycle_before <> 3)::integer AS deleted,
    (h.lifecycle_after = 2 AND h.lifecycle_before <> 2)::integer AS blocked,
    (h.lifecycle_after = 1 AND h.lifecycle_before > 1)::integer AS reactivated,
    (h.lifecycle_after = 1)::integer - (h.lifecycle_before = 1)::integer AS active, 1 AS events;

-- [summed] The sums of it.
sum(c.created)::integer AS created, sum(c.deleted)::integer AS deleted,
    sum(c.blocked)::integer AS blocked, sum(c.reactivated)::integer AS reactivated,
    sum(c.active)::integer AS active, sum(c.events)::integer AS events;

-- [numbers_of_users] What the histories of some users have added, each looked up by its key
-- (docs/planner.md, 3 and 4).
SELECT s.application_id, c.quarter, {summed}
FROM unnest($3::uuid[]) AS one (stream_id)
CROSS JOIN LATERAL (
    SELECT s.application_id FROM userlog.streams s
    WHERE s.partition = $1 AND s.stream_id = one.stream_id LIMIT 1
) s
CROSS JOIN LATERAL (
    SELECT {counted} FROM history h
    WHERE h.partition = $1 AND h.generation = $2 AND h.stream_id = one.stream_id
    OFFSET 0
) c
GROUP BY 1, 2;

-- [numbers_change] Add to numbers, in the order given; of quarters by how many there were since 1970.
INSERT INTO numbers AS n (partition, generation, application_id, quarter, created, deleted, blocked,
    reactivated, active, events)
SELECT $1, $2, t.application_id, to_timestamp(t.quarter * 900), t.created, t.deleted, t.blocked,
    t.reactivated, t.active, t.events
FROM unnest($3::text[], $4::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::integer[],
    $9::integer[], $10::integer[]) AS t (application_id, quarter, created, deleted, blocked,
    reactivated, active, events)
ON CONFLICT (partition, generation, application_id, quarter) DO UPDATE
SET created = n.created + excluded.created, deleted = n.deleted + excluded.deleted,
    blocked = n.blocked + excluded.blocked, reactivated = n.reactivated + excluded.reactivated,
    active = n.active + excluded.active, events = n.events + excluded.events;

-- [numbers_forget] Those of a generation.
DELETE FROM numbers WHERE generation = $1;

-- [numbers_fill] Make them from a history.
INSERT INTO numbers (partition, generation, application_id, quarter, created, deleted, blocked,
    reactivated, active, events)
SELECT c.partition, c.generation, s.application_id, c.quarter, {summed}
FROM (SELECT h.partition, h.generation, h.stream_id, {counted} FROM {history} h) c
JOIN userlog.streams s ON s.partition = c.partition AND s.stream_id = c.stream_id
GROUP BY 1, 2, 3, 4;

-- [numbers_differ] Where they are not the sums over the history, and what they lack there.
SELECT coalesce(n.application_id, r.application_id) AS application_id,
    coalesce(n.quarter, r.quarter) AS quarter,
    coalesce(r.created, 0) - coalesce(n.created, 0) AS created,
    coalesce(r.deleted, 0) - coalesce(n.deleted, 0) AS deleted,
    coalesce(r.blocked, 0) - coalesce(n.blocked, 0) AS blocked,
    coalesce(r.reactivated, 0) - coalesce(n.reactivated, 0) AS reactivated,
    coalesce(r.active, 0) - coalesce(n.active, 0) AS active,
    coalesce(r.events, 0) - coalesce(n.events, 0) AS events
FROM (
    SELECT n.application_id, n.quarter, n.created, n.deleted, n.blocked, n.reactivated, n.active,
        n.events
    FROM numbers n WHERE n.partition = $1 AND n.generation = $2
        AND (n.created, n.deleted, n.blocked, n.reactivated, n.active, n.events)
            <> (0, 0, 0, 0, 0, 0)
) n
FULL JOIN (
    SELECT s.application_id, c.quarter, {summed}
    FROM (
        SELECT h.partition, h.stream_id, {counted} FROM history h
        WHERE h.partition = $1 AND h.generation = $2
    ) c
    JOIN userlog.streams s ON s.partition = c.partition AND s.stream_id = c.stream_id
    GROUP BY 1, 2
) r ON r.application_id = n.application_id AND r.quarter = n.quarter
WHERE (n.created, n.deleted, n.blocked, n.reactivated, n.active, n.events)
    IS DISTINCT FROM (r.created, r.deleted, r.blocked, r.reactivated, r.active, r.events)
ORDER BY 1, 2;
