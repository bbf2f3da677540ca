-- The statements of metrics.

-- [metrics_partitions] How far each partition's log goes, and what its last verification found.
SELECT h.partition, h.position AS head, h.recorded_at, v.passed, v.verified_at,
    v.position AS verified_until
FROM userlog.log_head h LEFT JOIN userlog.verifications v ON v.partition = h.partition
ORDER BY h.partition;

-- [metrics_whole] Numbers of the database as a whole. The lock is that of a rebuild at work.
SELECT q.*, n.quarantined_at, s.*, p.parked, d.size, r.rebuild_running
FROM (SELECT coalesce(sum(deliveries), 0)::bigint AS quarantined,
        coalesce(sum(bytes), 0)::bigint AS quarantine_bytes FROM userlog.quarantine_totals) q,
    (SELECT max(l.last_seen) AS quarantined_at FROM userlog.quarantine_totals t
        CROSS JOIN LATERAL (SELECT last_seen FROM userlog.quarantine
            WHERE partition = t.partition ORDER BY last_seen DESC LIMIT 1) l) n,
    (SELECT coalesce(sum(users), 0)::bigint AS scrubbed,
        coalesce(sum(differences), 0)::bigint AS differences,
        max(scrubbed_at) AS scrubbed_at, max(differed_at) AS differed_at FROM userlog.scrubs) s,
    (SELECT count(*) AS parked FROM userlog.parked p
        JOIN userlog.active_generation a ON a.generation = p.generation) p,
    (SELECT CASE WHEN has_database_privilege(current_database(), 'CONNECT')
        THEN pg_database_size(current_database()) END AS size) d,
    (SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database b ON b.oid = l.database
        WHERE l.locktype = 'advisory' AND l.granted AND b.datname = current_database()
            AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint)
                = hashtext('userlog rebuild')) AS rebuild_running) r;
