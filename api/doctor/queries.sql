-- The statements of the doctor.

-- [server] The server's version, clock, and what this session's login may do.
SELECT current_setting('server_version') AS version, clock_timestamp() AS now,
    current_database() AS database, current_user AS login, pg_is_in_recovery() AS follows,
    pg_size_pretty(pg_database_size(current_database())) AS size;

-- [server_settings] Settings of the server.
SELECT name, setting FROM pg_settings WHERE name = ANY($1);

-- [changed_settings] Settings that are not the default, without those that could be personal.
SELECT name, setting, source FROM pg_settings
WHERE source NOT IN ('default', 'override', 'session', 'client') AND setting <> ''
    AND name !~ '(conninfo|command|passphrase|_file$|directory|directories|names$)'
ORDER BY name;

-- [foreign_indexes] Indexes on userlog's tables that userlog did not make. A rebuild's are not looked
-- at before its tables are attached.
SELECT x.relname AS name, c.relname AS on_table FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'userlog'::regnamespace
JOIN pg_class x ON x.oid = i.indexrelid
WHERE x.relname <> ALL ($1::text[]) AND (c.relispartition OR c.relname !~ '_g[0-9]+$')
    AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = x.oid)
ORDER BY x.relname;

-- [foreign_triggers] Triggers on userlog's tables that userlog did not make.
SELECT t.tgname AS name, c.relname AS on_table FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid AND c.relnamespace = 'userlog'::regnamespace
WHERE NOT t.tgisinternal AND t.tgname <> ALL ($1::text[]) ORDER BY t.tgname;

-- [fingerprints] The master keys that the partitions are written with.
SELECT DISTINCT fingerprint FROM userlog.log_head WHERE fingerprint IS NOT NULL;

-- [sessions] Who else is connected. Of other logins some servers show no name.
SELECT coalesce(application_name, '') AS name, coalesce(usename, '') AS login, count(*) AS sessions
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
GROUP BY 1, 2 ORDER BY 1, 2;

-- [empty_read_models] Partitions of which a user should be in the read models, and none is.
SELECT c.partition FROM userlog.checkpoints c
WHERE c.generation = (SELECT generation FROM userlog.active_generation)
    AND NOT EXISTS (
        SELECT FROM userlog.users u
        WHERE u.partition = c.partition AND u.generation = c.generation)
    AND EXISTS (
        SELECT FROM userlog.events e
        JOIN userlog.streams s ON s.partition = e.partition AND s.stream_id = e.stream_id
        WHERE e.partition = c.partition AND e.position <= c.position AND s.erased_at IS NULL
            AND NOT EXISTS (
                SELECT FROM userlog.parked p
                WHERE p.partition = e.partition AND p.stream_id = e.stream_id
                    AND p.generation = c.generation));

-- [table_sizes] Tables with their indexes.
SELECT c.relname AS name, pg_total_relation_size(c.oid) AS bytes, c.reltuples::bigint AS rows
FROM pg_class c WHERE c.relnamespace = to_regnamespace('userlog') AND c.relkind = 'r'
ORDER BY c.relname;
