-- The statements about the schema itself.

-- [columns] The columns of all tables but those of generations.
SELECT c.relname, a.attname,
    format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END AS type
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'userlog'::regnamespace AND c.relkind IN ('r', 'p')
    AND c.relname !~ '_g[0-9]+$'
ORDER BY c.relname, a.attname;

-- [functions] The functions, their arguments and texts.
SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS arguments, p.prosrc
FROM pg_proc p WHERE p.pronamespace = 'userlog'::regnamespace
ORDER BY p.proname, arguments;

-- [rights] Whether this login has the rights of the service, and those of the schema's owner.
SELECT current_user AS login, pg_has_role(n.nspowner, 'USAGE') AS is_owner, EXISTS (
    SELECT FROM pg_roles r WHERE r.rolname = 'userlog_app' AND pg_has_role(r.oid, 'USAGE')
) AS is_service
FROM pg_namespace n WHERE n.nspname = 'userlog';

-- [upgrade_lock] Held while an upgrade runs; false if another one does.
SELECT pg_try_advisory_lock(hashtext('userlog upgrade'));

-- [no_rebuild] No rebuild runs until the transaction ends; false if one does.
SELECT pg_try_advisory_xact_lock(hashtext('userlog rebuild'));

-- [heads_hold] No append and no erasure is under way until the transaction ends.
SELECT FROM userlog.log_head ORDER BY partition FOR UPDATE;

-- [old_sessions] The sessions of services and commands. Behind their name is their version.
SELECT pid, usename, coalesce('at ' || client_addr, '') AS client FROM pg_stat_activity
WHERE datname = current_database() AND split_part(application_name, ' ', 1) = $1
    AND pid <> pg_backend_pid()
ORDER BY pid;

-- [backup_progress] How far a backup is, in bytes, and whether it still copies files; the time is from
-- before it was looked at.
SELECT statement_timestamp() AS at, b.backup_streamed, b.backup_total,
    b.phase IN ('initializing', 'waiting for checkpoint to finish', 'estimating backup size',
        'streaming database files') AS copies
FROM pg_stat_progress_basebackup b JOIN pg_stat_activity a ON a.pid = b.pid
WHERE a.application_name = $1;
