-- userlog: the whole schema. `psql -f schema.sql` on an empty database installs everything;
-- `userlog init` does the same, and can choose the number of partitions.
--
-- What is here
--   meta, log_head, streams, events   the log: immutable, numbered without gaps, chained by hash
--   keys                              which master key the log is written with, and its own keys
--   quarantine, quarantine_totals     signed deliveries that could not be read, kept sealed, and how
--                                     much there is of them
--   audit, audit_head                 who erased somebody, and did what else is to be accounted for
--   verifications, scrubs             what was last proven of the log, and of the read models
--   tokens                            bearer tokens and their scopes
--   append(), erase()                 the only ways to change the log
--   key_begin(), key_make()           note which master key a new log is written with, and its own keys
--   audit()                           the only way to write to the audit
--   quarantine_put()                  puts what could not be read into quarantine
--   token_used(), token_revoke()      what the service may do to tokens
--   userlog_app                       the role that the service is a member of
--   active_generation, generations,   which generation of the read models answers, how far each one
--   checkpoints, rebuild_shards       has come, and what is left to do of a rebuild
--   users, history, numbers, terms    the read models, one table partition per generation
--   users_with()                      finds users by terms
--   parked                            users with an event that can't be projected
--
-- A read model is a table that is partitioned by generation. Its first partition, the service's
-- rights on it and what an erasure deletes follow from that; projections/read_models.py has its rows.
--
-- What always holds
--   - Everything that belongs to a user is keyed by `partition` first, computed by the
--     application from (application_id, user_id) and fixed for the life of the database.
--     No transaction, lock or constraint crosses partitions.
--   - Positions are dense per partition and become visible in order: append() takes the row of
--     log_head before it numbers anything, so max(position) = count(*) = log_head.position.
--   - recorded_at never decreases with position; append() takes whole milliseconds, as answers show them.
--   - occurred_at is at most five minutes after recorded_at: see append().
--   - Nothing updates or deletes an event: userlog_app has no right to, and works on the log
--     through append() and erase() alone. guard.sql adds a trigger that stops the owner too.
--
-- Statements are separated by a blank line and contain none, so that each can be sent alone.

CREATE SCHEMA userlog;

-- One row: the version of this file, a digest of its statements and those of guard.sql, and the
-- number of partitions, chosen once.
CREATE TABLE userlog.meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    schema_version integer NOT NULL,
    digest text NOT NULL,
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 1024)
);

-- The end of each partition of the log. Its row lock is what makes positions gapless.
-- fingerprint is that of the master key that the partition is written with: append() refuses another.
-- Null until something is written.
CREATE TABLE userlog.log_head (
    partition integer PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0,
    chain bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    recorded_at timestamptz NOT NULL DEFAULT 'epoch',
    fingerprint bytea
);

-- Keys. Of the master key, which lives outside the database, there is only the fingerprint: `master`
-- is the one that the log is written with, `previous` another that still wraps some keys while a
-- rotation is unfinished. Any other row is a key of the log's own, wrapped by the master key that the
-- fingerprint names. A fingerprint does not help to find the key.
CREATE TABLE userlog.keys (
    name text PRIMARY KEY,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 8),
    wrapped bytea
);

-- One row per user. stream_id is the first 16 bytes of SHA-256(application_id, NUL, user_id).
-- data_key is the user's own key, wrapped by the master key; erasure destroys it.
CREATE TABLE userlog.streams (
    partition integer NOT NULL,
    stream_id uuid NOT NULL,
    application_id text NOT NULL,
    user_id text NOT NULL,
    key_id bigint NOT NULL,
    data_key bytea,
    erased_at timestamptz,
    erased_position bigint,
    PRIMARY KEY (partition, stream_id)
);

-- The log. kind: 1 user.created, 2 user.updated, 3 user.deleted, 4 user.erased.
-- identity says which events are the same event, digest whether they have the same content;
-- both are keyed by the user's key. An identity that a time is part of begins with its minute.
-- chain stands on the last event of each batch:
-- sha256(previous chain || sha256(event) of every event of the batch). It proves that nothing was
-- altered; leaf, the first 8 bytes of sha256(event), says where.
CREATE TABLE userlog.events (
    partition integer NOT NULL,
    kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 4),
    position bigint NOT NULL,
    stream_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    identity bytea NOT NULL CHECK (octet_length(identity) = 16),
    digest bytea NOT NULL CHECK (octet_length(digest) = 8),
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 8),
    payload bytea NOT NULL,
    chain bytea,
    PRIMARY KEY (partition, position)
);

-- For the refold of one user and for questions about a moment in the past.
CREATE INDEX events_stream ON userlog.events (partition, stream_id, occurred_at, position);

-- For append(): is this event known already? The user's key is in the identity, so it needs no
-- stream_id beside it. It has to stay the last index of the table (docs/planner.md, 6).
CREATE UNIQUE INDEX events_identity ON userlog.events (partition, identity);

-- Signed deliveries that could not be read, or the entries of one that could not, each by itself. id is a
-- hash of the body under a key of the log's own, so a platform that repeats itself adds to times_seen and
-- not to the disk. The body is sealed with a key of its own. What is about a user whose ids could be read
-- has them, is in the user's partition, and goes when they are erased. headers are the few that help to
-- find out who sent it. bytes is what it counted in the totals when it came, and counts when it goes.
CREATE TABLE userlog.quarantine (
    partition integer NOT NULL,
    id uuid NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    headers json NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    times_seen bigint NOT NULL DEFAULT 1,
    bytes bigint NOT NULL,
    data_key bytea NOT NULL,
    body bytea NOT NULL,
    stream_id uuid,
    application_id text,
    user_id text,
    PRIMARY KEY (partition, id)
);

-- For the list, newest first.
CREATE INDEX quarantine_last_seen ON userlog.quarantine (partition, last_seen);

-- For erase(), and for what is about a user.
CREATE INDEX quarantine_stream ON userlog.quarantine (partition, stream_id);

-- How many deliveries are in quarantine, and their bytes; written in the transaction that puts one
-- there or removes it, so that they need not be counted. No row: there has never been one.
CREATE TABLE userlog.quarantine_totals (
    partition integer PRIMARY KEY,
    deliveries bigint NOT NULL,
    bytes bigint NOT NULL
);

-- Who did what that has to be accounted for: erasures, at the position of their event, and what was
-- read or thrown away in bulk. What is about no user is in partition 0. sealed says who, what and why,
-- sealed with a key of the log's own. The rows of a partition are numbered without gaps, and
-- chain is sha256(previous chain || row), as audit() makes it.
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

-- For what was done about a user.
CREATE INDEX audit_stream ON userlog.audit (partition, stream_id);

-- The end of each partition of the audit. Each erasure at a position after `since` has a row in it.
CREATE TABLE userlog.audit_head (
    partition integer PRIMARY KEY,
    number bigint NOT NULL DEFAULT 0,
    chain bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    since bigint NOT NULL DEFAULT 0
);

-- What the last `userlog verify` found in each partition up to a position, for monitoring.
-- It is a report, not a proof: the service may write it.
CREATE TABLE userlog.verifications (
    partition integer PRIMARY KEY,
    position bigint NOT NULL,
    verified_at timestamptz NOT NULL DEFAULT now(),
    passed boolean NOT NULL
);

-- How many users all scrubbers have compared with the log since the database was made, how many rows
-- differed, and when one last did.
CREATE TABLE userlog.scrubs (
    partition integer PRIMARY KEY,
    users bigint NOT NULL,
    differences bigint NOT NULL,
    scrubbed_at timestamptz NOT NULL DEFAULT now(),
    differed_at timestamptz
);

-- Bearer tokens, as SHA-256. applications: null for all of them. A revoked token stays in the list.
CREATE TABLE userlog.tokens (
    id text PRIMARY KEY,
    hash bytea NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    applications text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at timestamptz
);

-- ANALYZE copies no key, and nothing that is sealed or about one user, into pg_statistic, which an
-- erasure does not reach.
ALTER TABLE userlog.streams ALTER COLUMN data_key SET STATISTICS 0;

ALTER TABLE userlog.keys ALTER COLUMN wrapped SET STATISTICS 0;

ALTER TABLE userlog.events ALTER COLUMN payload SET STATISTICS 0;

ALTER TABLE userlog.quarantine ALTER COLUMN data_key SET STATISTICS 0,
    ALTER COLUMN body SET STATISTICS 0, ALTER COLUMN user_id SET STATISTICS 0;

ALTER TABLE userlog.audit ALTER COLUMN sealed SET STATISTICS 0;

-- Appends one batch to one partition and returns for each item, in the order given:
--   appended   it is in the log now, at this position
--   duplicate  the same event was there before, at this position
--   conflict   another event with the same identity is there, at this position
--   stale      the user's key is not the one the item was sealed with: look it up, seal again
-- The first statement takes the partition's head, so everything after it is alone with the
-- partition, and a reader that sees a position sees all below it. Each item costs the same few index
-- look-ups (docs/planner.md, 1 and 3).
-- in_fingerprint is that of the master key under which the batch is sealed. Under another than the
-- partition's it is refused: UL001, as by erase() and quarantine_put().
-- No identity may be in a batch twice: the unique index would refuse the batch. Items are judged,
-- numbered and hashed one after the other in variables, which takes a fifth less of a processor than
-- windows and ordered aggregates over all; the rows are inserted at once, as each INSERT costs.
-- in_recorded_ats is null but for an import, which brings the times of the log it comes from; one that
-- is more than five minutes ahead is refused, since all that is recorded later would be so too.
-- An event that is dated more than five minutes after it is recorded, because its sender's clock runs
-- ahead, counts as having occurred when it is recorded: it must not outrank all that comes after it.
-- Its own date stays in its payload.
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

-- Writes one row of the audit and returns its number. Its own row lock makes numbers gapless: a reader
-- that sees a number sees all below it.
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

-- Destroys a user's key, deletes their rows in every read model and in quarantine, appends user.erased
-- and writes to the audit, in one transaction. Returns the position of that event, null if the user is
-- unknown, or erased already; and how many rows of the quarantine are gone. A user of whom there is
-- nothing but what is in quarantine is erased likewise, and known from then on as erased.
-- The head is taken first, as append() does, so no append is half way between key and log.
-- With in_if_none_after nothing is done if the user has an event at a later position.
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

-- Puts what could not be read into quarantine, or counts it once more if it is there; adds it to the
-- totals the first time. Returns the ids of what is there now: of users who are erased nothing is kept.
-- The head is held first, so that a rotation of the master key, and an erasure, comes before it or
-- after it. A removal locks the rows in the same order: the deliveries', by id, then the totals'.
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

-- Notes which master key a new log is written with, unless one is noted: of two who begin at once,
-- one. A rotation alone changes it later.
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

-- Makes a key of the log's own, wrapped by the master key of this fingerprint, unless there is one.
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

-- The users of a partition who have all of some terms. By bitmaps, since the index knows nothing else,
-- which the service's sessions are kept from (docs/planner.md, 1).
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

-- Notes when tokens were last used, unless another process has seen them later.
CREATE FUNCTION userlog.token_used(in_ids text[], in_ats timestamptz[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE userlog.tokens t SET last_used_at = greatest(t.last_used_at, least(u.used_at, now()))
FROM unnest(in_ids, in_ats) AS u (id, used_at) WHERE t.id = u.id
$$;

-- Lets a token open nothing any more; null if there is none of that id.
CREATE FUNCTION userlog.token_revoke(in_id text) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE userlog.tokens t SET revoked_at = coalesce(t.revoked_at, now()) WHERE t.id = in_id
RETURNING t.id
$$;

-- The service logs in as a member of this role and nothing more. It reads everything, writes the read
-- models and quarantine, and changes the log through append() and erase(), and tokens through
-- token_used() and token_revoke(), alone. Who installs this need not be a member, nor may they need
-- the right to create roles: an administrator can have made it.
DO $$
BEGIN
    -- Looked for first: whether a role may be created is asked before whether it is there.
    IF to_regrole('userlog_app') IS NULL THEN
        BEGIN
            CREATE ROLE userlog_app NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN -- another installer was quicker
            NULL;
        END;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA userlog TO userlog_app;

GRANT SELECT ON ALL TABLES IN SCHEMA userlog TO userlog_app;

GRANT INSERT, UPDATE, DELETE ON userlog.quarantine, userlog.quarantine_totals,
    userlog.verifications, userlog.scrubs TO userlog_app;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA userlog FROM PUBLIC;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA userlog TO userlog_app;

INSERT INTO userlog.log_head (partition) VALUES (0);

INSERT INTO userlog.audit_head (partition) VALUES (0);

-- [read models] From here to [end] is what an upgrade makes anew beside the old, in another schema,
-- and fills from the log: eventstore/postgres/upgrade.py. Nothing above depends on it by name, but for
-- the bodies of functions.

-- One row: which generation answers. Changing it is the flip.
CREATE TABLE userlog.active_generation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation integer NOT NULL
);

-- fold is the version of the fold that makes its rows (FOLD_VERSION in projections/fold/state.py).
-- building: a rebuild makes it, by code of this version, and is at this phase; started_at is when it
-- was started or resumed. live: a projector with this fold keeps it up to date.
CREATE TABLE userlog.generations (
    generation integer PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('building', 'live')),
    fold integer NOT NULL,
    version text,
    phase text CHECK (phase IN ('building', 'indexing', 'catching up', 'proving')),
    started_at timestamptz NOT NULL DEFAULT now()
);

-- Everything up to position is in the read model, nothing after it. The row's lock makes its
-- holder the only projector of that partition and generation.
CREATE TABLE userlog.checkpoints (
    partition integer NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (partition, generation)
);

-- What a rebuild loads at once: all events at positions up to until of the users whose stream_id
-- lies between two bounds, both included. done_at is set in the transaction that loads the rows, so
-- each shard is loaded once, whatever dies; the row's lock makes its holder the only worker at it.
CREATE TABLE userlog.rebuild_shards (
    partition integer NOT NULL,
    generation integer NOT NULL,
    shard integer NOT NULL,
    first_stream uuid NOT NULL,
    last_stream uuid NOT NULL,
    until bigint NOT NULL,
    events bigint NOT NULL DEFAULT 0,
    users bigint NOT NULL DEFAULT 0,
    done_at timestamptz,
    PRIMARY KEY (partition, generation, shard)
);

-- The user as they are now. lifecycle: 1 active, 2 blocked, 3 deleted. Its event is the newest in
-- effective order: one below it came late. tie_break decides among events of one time and kind. sealed holds all that is known of the user, sealed with the
-- user's key for this row alone (eventstore/sealing/columns.py, projections/sealed.py).
CREATE TABLE userlog.users (
    partition integer NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    stream_id uuid NOT NULL,
    kind smallint NOT NULL,
    lifecycle smallint NOT NULL CHECK (lifecycle BETWEEN 1 AND 3),
    application_id text NOT NULL,
    user_id text NOT NULL,
    tie_break bytea NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (partition, stream_id, generation)
) PARTITION BY LIST (generation);

-- For lists of an application's users, the most recently changed first. Application and lifecycle are
-- one number, which takes a quarter less room; of another application with the same number a list reads
-- past the rows. Every row is in this index (docs/planner.md, 5).
CREATE INDEX users_changed ON userlog.users
    (partition, (hashtext(application_id) & -4 | lifecycle::integer), occurred_at, position)
    WHERE application_id IS NOT NULL;

-- What each event changed, in effective order; lifecycles as in users, 0 before a user's first event.
-- sealed holds what changed, in data and in words, sealed likewise.
CREATE TABLE userlog.history (
    partition integer NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    stream_id uuid NOT NULL,
    kind smallint NOT NULL,
    late boolean NOT NULL,
    lifecycle_before smallint NOT NULL CHECK (lifecycle_before BETWEEN 0 AND 3),
    lifecycle_after smallint NOT NULL CHECK (lifecycle_after BETWEEN 1 AND 3),
    tie_break bytea NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (partition, stream_id, generation, occurred_at, position)
) PARTITION BY LIST (generation);

-- The numbers of an application by quarters of an hour in UTC: users who were new, how often users
-- became deleted, blocked, and active again, the change in the number of active users, and events. They
-- are the sums over the history, see projections/numbers.py and erase(). Of a generation that is being
-- built there are none before its history is whole.
CREATE TABLE userlog.numbers (
    partition integer NOT NULL,
    generation integer NOT NULL,
    application_id text NOT NULL,
    quarter timestamptz NOT NULL,
    created integer NOT NULL,
    deleted integer NOT NULL,
    blocked integer NOT NULL,
    reactivated integer NOT NULL,
    active integer NOT NULL,
    events integer NOT NULL,
    PRIMARY KEY (partition, generation, application_id, quarter)
);

-- What a user can be found by now, and could be once, until a day (UTC): keyed hashes of their e-mails,
-- phones, username and the words of their name, see projections/fold/search_keys.py. A user has one row
-- and not one for each, which takes a third of the room.
CREATE TABLE userlog.terms (
    partition integer NOT NULL,
    generation integer NOT NULL,
    stream_id uuid NOT NULL,
    terms uuid[] NOT NULL,
    former uuid[] NOT NULL,
    until date[] NOT NULL,
    PRIMARY KEY (partition, stream_id, generation)
) PARTITION BY LIST (generation);

-- For the search, in users_with().
CREATE INDEX terms_terms ON userlog.terms USING gin (terms, former);

-- Users with an event, at this position, that can't be projected. Their rows stay as they were
-- before it, and what follows it waits in the log for `userlog rebuild --user`. reason is a fixed
-- word or the type of an exception, and quotes nothing of the event.
CREATE TABLE userlog.parked (
    partition integer NOT NULL,
    generation integer NOT NULL,
    stream_id uuid NOT NULL,
    position bigint NOT NULL,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, stream_id, generation)
);

-- As above; a partition does not inherit it, so a rebuild sets it again.
ALTER TABLE userlog.users ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN tie_break SET STATISTICS 0, ALTER COLUMN sealed SET STATISTICS 0;

ALTER TABLE userlog.history ALTER COLUMN tie_break SET STATISTICS 0,
    ALTER COLUMN sealed SET STATISTICS 0;

ALTER TABLE userlog.terms ALTER COLUMN terms SET STATISTICS 0,
    ALTER COLUMN former SET STATISTICS 0;

-- The first generation of each read model, and the rights of the service.
DO $$
DECLARE
    read_model text;
    uncounted text;
BEGIN
    FOR read_model IN SELECT c.relname FROM pg_partitioned_table p
        JOIN pg_class c ON c.oid = p.partrelid AND c.relnamespace = 'userlog'::regnamespace
        ORDER BY p.partrelid
    LOOP
        EXECUTE format('CREATE TABLE userlog.%I PARTITION OF userlog.%I FOR VALUES IN (1)',
            read_model || '_g1', read_model);
        FOR uncounted IN SELECT a.attname FROM pg_attribute a
            WHERE a.attrelid = format('userlog.%I', read_model)::regclass AND a.attstattarget = 0
                AND a.attnum > 0
        LOOP
            EXECUTE format('ALTER TABLE userlog.%I ALTER COLUMN %I SET STATISTICS 0',
                read_model || '_g1', uncounted);
        END LOOP;
        EXECUTE format('GRANT INSERT, UPDATE, DELETE ON userlog.%I TO userlog_app', read_model);
    END LOOP;
END
$$;

GRANT SELECT ON ALL TABLES IN SCHEMA userlog TO userlog_app;

GRANT INSERT, UPDATE, DELETE ON userlog.checkpoints, userlog.parked, userlog.numbers TO userlog_app;

INSERT INTO userlog.active_generation (generation) VALUES (1);

INSERT INTO userlog.generations (generation, state, fold) VALUES (1, 'live', 4);

INSERT INTO userlog.checkpoints (partition, generation) VALUES (0, 1);

-- [end]

-- The digest is that of eventstore/postgres/schema.py; a test recomputes it.
INSERT INTO userlog.meta (schema_version, digest, partitions) VALUES (5, 'f9dfe7ed488c373c', 1);
