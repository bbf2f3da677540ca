-- The statements of the read models' tables. Users are looked up, or deleted, one by one
-- (docs/planner.md, 4).

-- [users_get] The states of some users, each looked up by its key.
SELECT u.* FROM unnest($3::uuid[]) AS one (stream_id) CROSS JOIN LATERAL (
    SELECT u.stream_id, u.company_id, u.lifecycle, u.state, u.since, u.order_key, u.position, u.kind,
        u.occurred_at, u.recorded_at
    FROM userlog.users u
    WHERE u.partition = $1 AND u.generation = $2 AND u.stream_id = one.stream_id LIMIT 1
) u;

-- [users_put] Write some users.
INSERT INTO userlog.users (partition, generation, stream_id, application_id, user_id, company_id,
    lifecycle, state, since, order_key, position, kind, occurred_at, recorded_at)
SELECT $1, $2, u.*
FROM unnest($3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::json[], $9::json[],
    $10::bytea[], $11::bigint[], $12::smallint[], $13::timestamptz[], $14::timestamptz[]) AS u
ON CONFLICT (partition, generation, stream_id) DO UPDATE
SET application_id = excluded.application_id, user_id = excluded.user_id,
    company_id = excluded.company_id, lifecycle = excluded.lifecycle, state = excluded.state,
    since = excluded.since, order_key = excluded.order_key, position = excluded.position,
    kind = excluded.kind, occurred_at = excluded.occurred_at, recorded_at = excluded.recorded_at;

-- [users_drop] Forget a user.
DELETE FROM userlog.users WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [users_rows] The rows of a range of users, user by user.
SELECT stream_id, application_id, user_id, company_id, lifecycle, state, since, order_key, position,
    kind, occurred_at, recorded_at
FROM userlog.users
WHERE partition = $1 AND generation = $2 AND stream_id BETWEEN $3 AND $4
ORDER BY stream_id;

-- [users_sums] How many rows of each generation begin with each byte, and a sum over them that no
-- order changes.
SELECT t.generation, get_byte(uuid_send(t.stream_id), 0) AS bucket, count(*) AS rows,
    sum(hash_record_extended(ROW (t.stream_id, t.application_id, t.user_id, t.company_id,
        t.lifecycle, t.state::text, t.since::text, t.order_key, t.position, t.kind, t.occurred_at,
        t.recorded_at), 0)) AS checksum
FROM userlog.users t
WHERE t.partition = $1 AND t.generation = ANY($2)
GROUP BY 1, 2;

-- [history_put] Write some entries.
INSERT INTO userlog.history (partition, generation, stream_id, order_key, position, kind,
    occurred_at, recorded_at, stated_at, late, summary, changes)
SELECT $1, $2, h.*
FROM unnest($3::uuid[], $4::bytea[], $5::bigint[], $6::smallint[], $7::timestamptz[],
    $8::timestamptz[], $9::timestamptz[], $10::boolean[], $11::json[], $12::json[]) AS h;

-- [history_drop] Forget the history of a user.
DELETE FROM userlog.history WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [history_rows] The history of a range of users, user by user.
SELECT stream_id, order_key, position, kind, occurred_at, recorded_at, stated_at, late, summary,
    changes
FROM userlog.history
WHERE partition = $1 AND generation = $2 AND stream_id BETWEEN $3 AND $4
ORDER BY stream_id, order_key, position;

-- [history_sums] How many rows of each generation begin with each byte, and a sum over them that no
-- order changes.
SELECT t.generation, get_byte(uuid_send(t.stream_id), 0) AS bucket, count(*) AS rows,
    sum(hash_record_extended(ROW (t.stream_id, t.order_key, t.position, t.kind, t.occurred_at,
        t.recorded_at, t.stated_at, t.late, t.summary::text, t.changes::text), 0)) AS checksum
FROM userlog.history t
WHERE t.partition = $1 AND t.generation = ANY($2)
GROUP BY 1, 2;

-- [activity_put] Add to the days of some users.
INSERT INTO userlog.activity (partition, generation, stream_id, application_id, day, created,
    deleted, blocked, active)
SELECT $1, $2, a.*
FROM unnest($3::uuid[], $4::text[], $5::date[], $6::integer[], $7::integer[], $8::integer[],
    $9::integer[]) AS a
ON CONFLICT (partition, generation, stream_id, day) DO UPDATE
SET created = activity.created + excluded.created, deleted = activity.deleted + excluded.deleted,
    blocked = activity.blocked + excluded.blocked, active = activity.active + excluded.active;

-- [activity_drop] Forget the days of a user.
DELETE FROM userlog.activity WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [activity_rows] The days of a range of users, user by user.
SELECT stream_id, application_id, day, created, deleted, blocked, active
FROM userlog.activity
WHERE partition = $1 AND generation = $2 AND stream_id BETWEEN $3 AND $4
ORDER BY stream_id, day;

-- [activity_sums] How many rows of each generation begin with each byte, and a sum over them that no
-- order changes.
SELECT t.generation, get_byte(uuid_send(t.stream_id), 0) AS bucket, count(*) AS rows,
    sum(hash_record_extended(ROW (t.stream_id, t.application_id, t.day, t.created, t.deleted,
        t.blocked, t.active), 0)) AS checksum
FROM userlog.activity t
WHERE t.partition = $1 AND t.generation = ANY($2)
GROUP BY 1, 2;

-- [terms_put] Let some users be found.
INSERT INTO userlog.terms (partition, generation, stream_id, term)
SELECT $1, $2, t.* FROM unnest($3::uuid[], $4::bytea[]) AS t;

-- [terms_drop] Let a user not be found any more.
DELETE FROM userlog.terms WHERE partition = $1 AND generation = $2 AND stream_id = $3;

-- [terms_rows] What a range of users can be found by, user by user.
SELECT stream_id, term
FROM userlog.terms
WHERE partition = $1 AND generation = $2 AND stream_id BETWEEN $3 AND $4
ORDER BY stream_id, term;

-- [terms_sums] How many rows of each generation begin with each byte, and a sum over them that no
-- order changes.
SELECT t.generation, get_byte(uuid_send(t.stream_id), 0) AS bucket, count(*) AS rows,
    sum(hash_record_extended(ROW (t.stream_id, t.term), 0)) AS checksum
FROM userlog.terms t
WHERE t.partition = $1 AND t.generation = ANY($2)
GROUP BY 1, 2;
