-- To version 6: the log has an identity, and signed heads; quarantine learns whom an entry is about.
-- Locks: log_head, meta
-- Read models: kept

ALTER TABLE userlog.meta ADD COLUMN log_id uuid NOT NULL DEFAULT gen_random_uuid();

CREATE TABLE userlog.signed_heads (
    partition integer NOT NULL,
    position bigint NOT NULL,
    audit_number bigint NOT NULL,
    signed_at timestamptz NOT NULL,
    note text NOT NULL,
    PRIMARY KEY (partition, position, audit_number)
);

GRANT SELECT, INSERT ON userlog.signed_heads TO userlog_app;

CREATE OR REPLACE FUNCTION userlog.quarantine_put(
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

-- A version before 5 kept deliveries whole, and version 5 left some without ids.
DO $$
BEGIN
    IF obj_description('userlog.quarantine'::regclass, 'pg_class') IS NULL THEN
        COMMENT ON TABLE userlog.quarantine IS 'kept whole';
    END IF;
END
$$;

UPDATE userlog.meta SET schema_version = 6, digest = '4a15be022b87de3f';
