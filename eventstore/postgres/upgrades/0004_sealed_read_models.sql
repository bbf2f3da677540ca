-- To version 4: read models sealed with the users' keys.
-- Locks: log_head, meta, the old read models
-- Read models: made anew

-- Since when users have been parked. An upgrade from version 1 has no old read models left.
DO $$
BEGIN
    IF to_regclass('userlog.parked') IS NOT NULL THEN
        UPDATE userlog_next.parked p SET since = o.since
        FROM userlog.parked o JOIN userlog.active_generation a ON a.generation = o.generation
        WHERE o.partition = p.partition AND o.stream_id = p.stream_id AND o.position = p.position;
    END IF;
END
$$;

-- The tables of generations that are no part of the read models: of a rebuild that was not finished.
DO $$
DECLARE
    leftover text;
BEGIN
    FOR leftover IN SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'userlog'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
            AND c.relname ~ '^(users|history|activity|terms)_g[0-9]+$'
    LOOP
        EXECUTE format('DROP TABLE userlog.%I', leftover);
    END LOOP;
END
$$;

DROP TABLE IF EXISTS userlog.users, userlog.history, userlog.activity, userlog.terms, userlog.parked,
    userlog.active_generation, userlog.generations, userlog.checkpoints, userlog.rebuild_shards;

CREATE OR REPLACE FUNCTION userlog.erase(
    in_partition integer,
    in_fingerprint bytea,
    in_recorded_at timestamptz,
    in_stream_id uuid,
    in_key_id bigint,
    in_identity bytea,
    in_digest bytea
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    erased record;
    appended record;
    counted record;
    read_model text;
    is_history boolean;
    its_schema text;
    now_erased timestamptz := coalesce(in_recorded_at, date_trunc('milliseconds', clock_timestamp()));
BEGIN
    PERFORM FROM userlog.log_head h WHERE h.partition = in_partition FOR UPDATE;
    UPDATE userlog.streams s SET data_key = NULL, key_id = in_key_id, erased_at = now_erased
    WHERE s.partition = in_partition AND s.stream_id = in_stream_id AND s.data_key IS NOT NULL
    RETURNING s.application_id INTO erased;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT a.positions[1] AS position, a.outcomes[1] AS outcome INTO appended FROM userlog.append(
        in_partition, in_fingerprint, ARRAY[in_recorded_at], '{}', '{}', '{}', '{}', '{}', ARRAY[in_stream_id],
        ARRAY[in_key_id], ARRAY[4::smallint], ARRAY[now_erased], ARRAY[in_identity],
        ARRAY[in_digest], ARRAY[''::bytea]) a;
    IF appended.outcome <> 'appended' THEN -- no erasure without its event
        RAISE EXCEPTION 'an erasure has the identity of another event'
            USING ERRCODE = 'unique_violation';
    END IF;
    UPDATE userlog.streams s SET erased_position = appended.position
    WHERE s.partition = in_partition AND s.stream_id = in_stream_id;
    -- Each generation of each read model, also of those that an upgrade fills, and one that DETACH
    -- PARTITION CONCURRENTLY was stopped in: its rows are there, but no statement on the whole table
    -- sees them. The order is that in which the tables were made, which is the projector's: no two
    -- can wait for each other. What the history has added to the numbers is taken back first; who has
    -- deleted a user's row of users is alone with the rest of them.
    FOR read_model, is_history, its_schema IN
        SELECT i.inhrelid::regclass::text, c.relname = 'history', n.nspname FROM pg_inherits i
        JOIN pg_partitioned_table p ON p.partrelid = i.inhparent
        JOIN pg_class c ON c.oid = p.partrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname IN ('userlog', 'userlog_next')
        ORDER BY i.inhrelid
    LOOP
        BEGIN
            IF is_history THEN
                FOR counted IN EXECUTE format('
                    SELECT h.generation, date_bin(''15 minutes'', h.occurred_at, ''epoch'') AS quarter,
                        sum((h.lifecycle_before = 0)::integer)::integer AS created,
                        sum((h.lifecycle_after = 3 AND h.lifecycle_before <> 3)::integer)::integer
                            AS deleted,
                        sum((h.lifecycle_after = 2 AND h.lifecycle_before <> 2)::integer)::integer
                            AS blocked,
                        sum((h.lifecycle_after = 1 AND h.lifecycle_before > 1)::integer)::integer
                            AS reactivated,
                        sum((h.lifecycle_after = 1)::integer - (h.lifecycle_before = 1)::integer)
                            ::integer AS active,
                        count(*)::integer AS events
                    FROM %s h WHERE h.partition = $1 AND h.stream_id = $2
                    GROUP BY 1, 2 ORDER BY 1, 2', read_model) USING in_partition, in_stream_id
                LOOP
                    EXECUTE format('
                        UPDATE %I.numbers n SET created = n.created - $5, deleted = n.deleted - $6,
                            blocked = n.blocked - $7, reactivated = n.reactivated - $8,
                            active = n.active - $9, events = n.events - $10
                        WHERE n.partition = $1 AND n.generation = $2 AND n.application_id = $3
                            AND n.quarter = $4', its_schema)
                        USING in_partition, counted.generation, erased.application_id,
                        counted.quarter, counted.created, counted.deleted, counted.blocked,
                        counted.reactivated, counted.active, counted.events;
                END LOOP;
            END IF;
            EXECUTE format('DELETE FROM %s WHERE partition = $1 AND stream_id = $2', read_model)
                USING in_partition, in_stream_id;
        EXCEPTION WHEN undefined_table THEN -- dropped since
            NULL;
        END;
    END LOOP;
    DELETE FROM userlog.parked p WHERE p.partition = in_partition AND p.stream_id = in_stream_id;
    RETURN appended.position;
END
$$;

CREATE FUNCTION userlog.key_make(in_name text, in_fingerprint bytea, in_wrapped bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM userlog.keys k WHERE k.name = 'master' AND k.fingerprint = in_fingerprint FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the log is not written with this master key' USING ERRCODE = 'UL001';
    END IF;
    INSERT INTO userlog.keys (name, fingerprint, wrapped) VALUES (in_name, in_fingerprint, in_wrapped)
    ON CONFLICT (name) DO NOTHING;
END
$$;

CREATE FUNCTION userlog.users_with(in_partition integer, in_generation integer, in_terms uuid[])
RETURNS SETOF uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = on
AS $$
BEGIN
    RETURN QUERY SELECT t.stream_id FROM userlog.terms t
        WHERE t.partition = in_partition AND t.generation = in_generation AND t.terms @> in_terms;
END
$$;

REVOKE EXECUTE ON FUNCTION userlog.key_make, userlog.users_with FROM PUBLIC;

GRANT EXECUTE ON FUNCTION userlog.key_make, userlog.users_with TO userlog_app;

UPDATE userlog.meta SET schema_version = 4, digest = '04bf815ecb60f53e';
