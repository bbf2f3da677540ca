-- To version 5: an audit, and erasures that reach the quarantine and statistics.
-- Locks: log_head, meta, streams, keys, events, quarantine, the read models
-- Read models: kept

CREATE TABLE userlog.audit (
    partition integer NOT NULL,
    number bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    stream_id uuid,
    position bigint,
    sealed bytea NOT NULL,
    chain bytea NOT NULL,
    PRIMARY KEY (partition, number)
);

CREATE INDEX audit_stream ON userlog.audit (partition, stream_id);

CREATE TABLE userlog.audit_head (
    partition integer PRIMARY KEY,
    number bigint NOT NULL DEFAULT 0,
    chain bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    since bigint NOT NULL DEFAULT 0
);

-- What was erased before has no row in the audit.
INSERT INTO userlog.audit_head (partition, since) SELECT partition, position FROM userlog.log_head;

ALTER TABLE userlog.quarantine ADD COLUMN stream_id uuid, ADD COLUMN application_id text,
    ADD COLUMN user_id text;

-- What is still to be done after the switch: an interrupted upgrade goes on with that.
COMMENT ON TABLE userlog.quarantine IS 'switched';

CREATE INDEX quarantine_stream ON userlog.quarantine (partition, stream_id);

-- No statistics of what an erasure has to reach, from now on; and what ANALYZE had left is removed, by
-- giving the columns the type that they have. Read models that an upgrade makes anew have it already.
DO $$
DECLARE
    uncounted record;
BEGIN
    FOR uncounted IN
        SELECT c.oid::regclass AS name, c.relispartition, a.attname, a.atttypid::regtype AS type
        FROM (VALUES ('streams', 'data_key'), ('keys', 'wrapped'), ('events', 'payload'),
                ('quarantine', 'data_key'), ('quarantine', 'body'), ('quarantine', 'user_id'),
                ('audit', 'sealed'),
                ('users', 'user_id'), ('users', 'tie_break'), ('users', 'sealed'),
                ('history', 'tie_break'), ('history', 'sealed'),
                ('terms', 'terms'), ('terms', 'former')) AS u (base, attname)
        JOIN pg_class c ON c.relnamespace = 'userlog'::regnamespace AND c.relkind IN ('r', 'p')
            AND c.relname ~ ('^' || u.base || '(_g[0-9]+)?$')
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = u.attname
        ORDER BY c.oid, a.attnum
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0',
            uncounted.name, uncounted.attname);
        IF NOT uncounted.relispartition THEN -- it follows from that of the whole table
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I TYPE %s',
                uncounted.name, uncounted.attname, uncounted.type);
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION userlog.audit(
    in_partition integer, in_stream_id uuid, in_position bigint, in_sealed bytea
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head userlog.audit_head;
    now_recorded timestamptz;
BEGIN
    SELECT * INTO head FROM userlog.audit_head h WHERE h.partition = in_partition FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'userlog has no partition %', in_partition USING ERRCODE = 'no_data_found';
    END IF;
    now_recorded := date_trunc('milliseconds', clock_timestamp());
    head.number := head.number + 1;
    head.chain := sha256(head.chain || int4send(in_partition) || int8send(head.number)
        || timestamptz_send(now_recorded)
        || coalesce(uuid_send(in_stream_id), decode(repeat('00', 16), 'hex'))
        || int8send(coalesce(in_position, 0)) || in_sealed);
    INSERT INTO userlog.audit (partition, number, recorded_at, stream_id, position, sealed, chain)
    VALUES (in_partition, head.number, now_recorded, in_stream_id, in_position, in_sealed, head.chain);
    UPDATE userlog.audit_head h SET number = head.number, chain = head.chain
    WHERE h.partition = in_partition;
    RETURN head.number;
END
$$;

DROP FUNCTION userlog.erase;

CREATE FUNCTION userlog.erase(
    in_partition integer,
    in_fingerprint bytea,
    in_recorded_at timestamptz,
    in_stream_id uuid,
    in_key_id bigint,
    in_identity bytea,
    in_digest bytea,
    in_application_id text,
    in_user_id text,
    in_if_none_after bigint,
    in_audit bytea,
    OUT erased_position bigint,
    OUT quarantined bigint
)
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
    IF in_if_none_after IS NOT NULL AND EXISTS (
        SELECT FROM userlog.events e WHERE e.partition = in_partition
            AND e.stream_id = in_stream_id AND e.position > in_if_none_after
    ) THEN
        RETURN;
    END IF;
    INSERT INTO userlog.streams (partition, stream_id, application_id, user_id, key_id, data_key)
    SELECT in_partition, in_stream_id, in_application_id, in_user_id, in_key_id, ''
    WHERE EXISTS (SELECT FROM userlog.quarantine q
        WHERE q.partition = in_partition AND q.stream_id = in_stream_id)
    ON CONFLICT (partition, stream_id) DO NOTHING;
    UPDATE userlog.streams s SET data_key = NULL, key_id = in_key_id, erased_at = now_erased
    WHERE s.partition = in_partition AND s.stream_id = in_stream_id AND s.data_key IS NOT NULL
    RETURNING s.application_id INTO erased;
    IF NOT FOUND THEN
        RETURN;
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
    WITH gone AS (
        DELETE FROM userlog.quarantine q
        WHERE q.partition = in_partition AND q.stream_id = in_stream_id RETURNING q.bytes
    ), counted AS (
        SELECT count(*) AS deliveries, coalesce(sum(g.bytes), 0) AS bytes FROM gone g
    ), taken AS (
        UPDATE userlog.quarantine_totals t
        SET deliveries = t.deliveries - c.deliveries, bytes = t.bytes - c.bytes
        FROM counted c WHERE t.partition = in_partition AND c.deliveries > 0
    )
    SELECT c.deliveries INTO quarantined FROM counted c;
    PERFORM userlog.audit(in_partition, in_stream_id, appended.position, in_audit);
    erased_position := appended.position;
END
$$;

DROP FUNCTION userlog.quarantine_put;

CREATE FUNCTION userlog.quarantine_put(
    in_partition integer,
    in_fingerprint bytea,
    in_headers json,
    in_ids uuid[],
    in_stream_ids uuid[],
    in_application_ids text[],
    in_user_ids text[],
    in_reasons text[],
    in_details text[],
    in_bytes bigint[],
    in_data_keys bytea[],
    in_bodies bytea[]
) RETURNS uuid[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head_fingerprint bytea;
    item record;
    seen bigint;
    kept uuid[] := '{}';
    new_deliveries bigint := 0;
    new_bytes bigint := 0;
BEGIN
    SELECT h.fingerprint INTO head_fingerprint FROM userlog.log_head h
    WHERE h.partition = in_partition FOR SHARE;
    IF head_fingerprint IS DISTINCT FROM in_fingerprint THEN
        RAISE EXCEPTION 'the log is not written with this master key' USING ERRCODE = 'UL001';
    END IF;
    FOR item IN
        SELECT i.* FROM unnest(in_ids, in_stream_ids, in_application_ids, in_user_ids, in_reasons,
                in_details, in_bytes, in_data_keys, in_bodies)
            AS i (id, stream_id, application_id, user_id, reason, detail, bytes, data_key, body)
        WHERE NOT EXISTS (SELECT FROM userlog.streams s WHERE s.partition = in_partition
            AND s.stream_id = i.stream_id AND s.data_key IS NULL)
        ORDER BY i.id
    LOOP
        INSERT INTO userlog.quarantine AS q (partition, id, stream_id, application_id, user_id,
            reason, detail, headers, bytes, data_key, body)
        VALUES (in_partition, item.id, item.stream_id, item.application_id, item.user_id,
            item.reason, item.detail, in_headers, item.bytes, item.data_key, item.body)
        ON CONFLICT (partition, id) DO UPDATE
        SET last_seen = excluded.last_seen, times_seen = q.times_seen + 1,
            reason = excluded.reason, detail = excluded.detail, headers = excluded.headers,
            stream_id = coalesce(q.stream_id, excluded.stream_id),
            application_id = coalesce(q.application_id, excluded.application_id),
            user_id = coalesce(q.user_id, excluded.user_id)
        RETURNING q.times_seen INTO seen;
        IF seen = 1 THEN
            new_deliveries := new_deliveries + 1;
            new_bytes := new_bytes + item.bytes;
        END IF;
        kept := kept || item.id;
    END LOOP;
    IF new_deliveries > 0 THEN
        INSERT INTO userlog.quarantine_totals AS t (partition, deliveries, bytes)
        VALUES (in_partition, new_deliveries, new_bytes)
        ON CONFLICT (partition) DO UPDATE
        SET deliveries = t.deliveries + excluded.deliveries, bytes = t.bytes + excluded.bytes;
    END IF;
    RETURN kept;
END
$$;

GRANT SELECT ON userlog.audit, userlog.audit_head TO userlog_app;

REVOKE EXECUTE ON FUNCTION userlog.audit, userlog.erase, userlog.quarantine_put FROM PUBLIC;

GRANT EXECUTE ON FUNCTION userlog.audit, userlog.erase, userlog.quarantine_put TO userlog_app;

UPDATE userlog.meta SET schema_version = 5, digest = 'f9dfe7ed488c373c';
