-- [users_get] The states of some users, each looked up by its key (docs/planner.md, 3 and 4).
SELECT u.* FROM unnest($3::uuid[]) AS one (stream_id) CROSS JOIN LATERAL (
    SELECT u.stream_id, u.company_id, u.lifecycle, u.state, u.since, u.order_key, u.position, u.kind,
        u.occurred_at, u.recorded_at
    FROM userlog.users u
    WHERE u.partition = $1 AND u.generation = $2 AND u.stream_id = one.stream_id LIMIT 1
) u;
