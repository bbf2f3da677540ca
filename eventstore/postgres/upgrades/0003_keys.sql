-- To version 3: the log knows which master key it is written with.
-- Locks: log_head, meta
-- Read models: kept

ALTER TABLE userlog.log_head ADD COLUMN fingerprint bytea;

CREATE TABLE userlog.keys (
    name text PRIMARY KEY,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 8),
    wrapped bytea
);

GRANT SELECT ON userlog.keys TO userlog_app;

DROP FUNCTION userlog.append;

CREATE FUNCTION userlog.append(
    in_partition integer,
    in_fingerprint bytea,
    in_recorded_ats timestamptz[],
    new_stream_ids uuid[],
    new_application_ids text[],
    new_user_ids text[],
    new_key_ids bigint[],
    new_data_keys bytea[],
    in_stream_ids uuid[],
    in_key_ids bigint[],
    in_kinds smallint[],
    in_occurred_ats timestamptz[],
    in_identities bytea[],
    in_digests bytea[],
    in_payloads bytea[],
    OUT outcomes text[],
    OUT positions bigint[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    head userlog.log_head;
    item record;
    occurred timestamptz;
    leaf bytea;
    leaves bytea := ''::bytea;
    appended userlog.events[];
    now_recorded timestamptz;
BEGIN
    SELECT * INTO head FROM userlog.log_head h WHERE h.partition = in_partition FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'userlog has no partition %', in_partition USING ERRCODE = 'no_data_found';
    END IF;
    IF head.fingerprint IS DISTINCT FROM in_fingerprint THEN
        RAISE EXCEPTION 'the log is not written with this master key' USING ERRCODE = 'UL001';
    END IF;
    now_recorded := date_trunc('milliseconds', clock_timestamp());
    IF cardinality(new_stream_ids) > 0 THEN
        INSERT INTO userlog.streams (partition, stream_id, application_id, user_id, key_id, data_key)
        SELECT in_partition, n.stream_id, n.application_id, n.user_id, n.key_id, n.data_key
        FROM unnest(new_stream_ids, new_application_ids, new_user_ids, new_key_ids, new_data_keys)
            AS n (stream_id, application_id, user_id, key_id, data_key)
        ON CONFLICT (partition, stream_id) DO NOTHING;
    END IF;
    FOR item IN
        SELECT i.*, stream.key_id AS known_key_id, known.position AS known_position,
            known.digest AS known_digest
        FROM unnest(in_stream_ids, in_key_ids, in_kinds, in_occurred_ats, in_recorded_ats,
                in_identities, in_digests, in_payloads)
            AS i (stream_id, key_id, kind, occurred_at, recorded_at, identity, digest, payload)
        LEFT JOIN LATERAL (
            SELECT s.key_id FROM userlog.streams s
            WHERE s.partition = in_partition AND s.stream_id = i.stream_id LIMIT 1
        ) stream ON true
        LEFT JOIN LATERAL (
            SELECT e.position, e.digest FROM userlog.events e
            WHERE e.partition = in_partition AND e.identity = i.identity LIMIT 1
        ) known ON true
    LOOP
        IF item.known_key_id IS DISTINCT FROM item.key_id THEN
            outcomes := outcomes || 'stale'::text;
            positions := positions || NULL::bigint;
        ELSIF item.known_position IS NOT NULL THEN
            outcomes := outcomes
                || CASE WHEN item.known_digest = item.digest THEN 'duplicate' ELSE 'conflict' END;
            positions := positions || item.known_position;
        ELSE
            IF item.recorded_at > now_recorded + interval '5 minutes' THEN
                RAISE EXCEPTION 'recorded_at is more than five minutes ahead of the server''s clock'
                    USING ERRCODE = 'datetime_field_overflow';
            END IF;
            IF item.occurred_at < '0001-01-01 00:00:00+00' THEN
                RAISE EXCEPTION 'occurred_at is no time that a calendar has'
                    USING ERRCODE = 'datetime_field_overflow';
            END IF;
            head.position := head.position + 1;
            head.recorded_at := greatest(head.recorded_at, coalesce(item.recorded_at, now_recorded));
            occurred := CASE WHEN item.occurred_at > head.recorded_at + interval '5 minutes'
                THEN head.recorded_at ELSE item.occurred_at END;
            leaf := sha256(
                int4send(in_partition) || int8send(head.position) || uuid_send(item.stream_id)
                || int2send(item.kind) || timestamptz_send(occurred)
                || timestamptz_send(head.recorded_at)
                || item.identity || item.digest || item.payload);
            leaves := leaves || leaf;
            appended := appended || ROW( -- in the order of the table's columns
                in_partition, item.kind, head.position, item.stream_id, occurred, head.recorded_at,
                item.identity, item.digest, substring(leaf FROM 1 FOR 8), item.payload, NULL
            )::userlog.events;
            outcomes := outcomes || 'appended'::text;
            positions := positions || head.position;
        END IF;
    END LOOP;
    IF cardinality(appended) > 0 THEN
        head.chain := sha256(head.chain || leaves);
        appended[cardinality(appended)].chain := head.chain;
        INSERT INTO userlog.events SELECT * FROM unnest(appended);
        UPDATE userlog.log_head h
        SET position = head.position, chain = head.chain, recorded_at = head.recorded_at
        WHERE h.partition = in_partition;
    END IF;
END
$$;

-- As guard.sql does, where it is.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_trigger WHERE tgname = 'events_are_immutable') THEN
        ALTER FUNCTION userlog.append SET plan_cache_mode = force_generic_plan;
    END IF;
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
    in_digest bytea
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    appended record;
    read_model text;
    now_erased timestamptz := coalesce(in_recorded_at, date_trunc('milliseconds', clock_timestamp()));
BEGIN
    PERFORM FROM userlog.log_head h WHERE h.partition = in_partition FOR UPDATE;
    UPDATE userlog.streams s SET data_key = NULL, key_id = in_key_id, erased_at = now_erased
    WHERE s.partition = in_partition AND s.stream_id = in_stream_id AND s.data_key IS NOT NULL;
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
    -- can wait for each other.
    FOR read_model IN SELECT i.inhrelid::regclass::text FROM pg_inherits i
        JOIN pg_partitioned_table p ON p.partrelid = i.inhparent
        JOIN pg_class c ON c.oid = p.partrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname IN ('userlog', 'userlog_next')
        ORDER BY i.inhrelid
    LOOP
        BEGIN
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

DROP FUNCTION userlog.quarantine_put;

CREATE FUNCTION userlog.quarantine_put(
    in_partition integer,
    in_fingerprint bytea,
    in_id uuid,
    in_reason text,
    in_detail text,
    in_headers json,
    in_bytes bigint,
    in_data_key bytea,
    in_body bytea
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head_fingerprint bytea;
    seen bigint;
BEGIN
    SELECT h.fingerprint INTO head_fingerprint FROM userlog.log_head h
    WHERE h.partition = in_partition FOR SHARE;
    IF head_fingerprint IS DISTINCT FROM in_fingerprint THEN
        RAISE EXCEPTION 'the log is not written with this master key' USING ERRCODE = 'UL001';
    END IF;
    INSERT INTO userlog.quarantine AS q
        (partition, id, reason, detail, headers, bytes, data_key, body)
    VALUES (in_partition, in_id, in_reason, in_detail, in_headers, in_bytes, in_data_key, in_body)
    ON CONFLICT (partition, id) DO UPDATE
    SET last_seen = excluded.last_seen, times_seen = q.times_seen + 1,
        reason = excluded.reason, detail = excluded.detail, headers = excluded.headers
    RETURNING q.times_seen INTO seen;
    IF seen = 1 THEN
        INSERT INTO userlog.quarantine_totals AS t (partition, deliveries, bytes)
        VALUES (in_partition, 1, in_bytes)
        ON CONFLICT (partition) DO UPDATE
        SET deliveries = t.deliveries + 1, bytes = t.bytes + excluded.bytes;
    END IF;
END
$$;

CREATE FUNCTION userlog.key_begin(in_fingerprint bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO userlog.keys (name, fingerprint) VALUES ('master', in_fingerprint)
    ON CONFLICT (name) DO NOTHING;
    UPDATE userlog.log_head h SET fingerprint = k.fingerprint FROM userlog.keys k
    WHERE k.name = 'master' AND h.fingerprint IS NULL;
END
$$;

REVOKE EXECUTE ON FUNCTION userlog.append, userlog.erase, userlog.quarantine_put, userlog.key_begin
    FROM PUBLIC;

GRANT EXECUTE ON FUNCTION userlog.append, userlog.erase, userlog.quarantine_put, userlog.key_begin
    TO userlog_app;

UPDATE userlog.meta SET schema_version = 3, digest = 'a4ceeb8ba19c9be6';
