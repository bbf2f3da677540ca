-- The statements of the keys.

-- [stream_keys] The keys of some users of one partition; an erased user's data_key is null.
SELECT stream_id, key_id, data_key FROM userlog.streams WHERE partition = $1 AND stream_id = ANY($2);

-- [any_key] One user's key, to see whether the master key opens it.
SELECT stream_id, key_id, data_key FROM userlog.streams WHERE data_key IS NOT NULL LIMIT 1;

-- [streams_wrapped] Users' wrapped keys after an id, for rotation.
SELECT stream_id AS id, data_key FROM userlog.streams
WHERE partition = $1 AND stream_id > $2 AND data_key IS NOT NULL ORDER BY stream_id LIMIT $3;

-- [streams_rewrap] Replace wrapped keys, unless they have been destroyed meanwhile.
UPDATE userlog.streams s SET data_key = n.new
FROM unnest($2::uuid[], $3::bytea[], $4::bytea[]) AS n (id, old, new)
WHERE s.partition = $1 AND s.stream_id = n.id AND s.data_key = n.old;

-- [quarantine_wrapped] Wrapped keys of the quarantine after an id, for rotation.
SELECT id, data_key FROM userlog.quarantine
WHERE partition = $1 AND id > $2 ORDER BY id LIMIT $3;

-- [quarantine_rewrap] Replace wrapped keys.
UPDATE userlog.quarantine q SET data_key = n.new
FROM unnest($2::uuid[], $3::bytea[], $4::bytea[]) AS n (id, old, new)
WHERE q.partition = $1 AND q.id = n.id AND q.data_key = n.old;

-- [head_key] The fingerprint of the master key that a partition is written with; null if none yet.
SELECT fingerprint FROM userlog.log_head WHERE partition = $1;

-- [key_begin] Note which master key the log is written with, unless one is noted.
SELECT userlog.key_begin($1);

-- [master_keys] The master keys that the log needs.
SELECT name, fingerprint FROM userlog.keys WHERE wrapped IS NULL ORDER BY name;

-- [rotation_lock] Held while a rotation runs; false if another one does.
SELECT pg_try_advisory_lock(hashtext('userlog rotation'));

-- [rotation_begin] From $2 to $1; what a former rotation left unfinished is in it.
INSERT INTO userlog.keys (name, fingerprint) VALUES ('master', $1), ('previous', $2)
ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint;

-- [rotation_head] From now on a partition is written with the new key; waits for who is writing.
UPDATE userlog.log_head SET fingerprint = $2 WHERE partition = $1;

-- [rotation_end] Nothing is wrapped with the previous key any more.
DELETE FROM userlog.keys WHERE name = 'previous';

-- [own_key] A key of the log's own.
SELECT wrapped FROM userlog.keys WHERE name = $1 AND wrapped IS NOT NULL;

-- [key_make] Make one, wrapped by the master key of this fingerprint, unless there is one.
SELECT userlog.key_make($1, $2, $3);

-- [keys_wrapped] The keys of the log's own.
SELECT name, wrapped FROM userlog.keys WHERE wrapped IS NOT NULL ORDER BY name;

-- [keys_rewrap] Replace one of them.
UPDATE userlog.keys SET wrapped = $3, fingerprint = $4 WHERE name = $1 AND wrapped = $2;

-- [erased_numbers] How far the audit of each partition is.
SELECT partition, number FROM userlog.audit_head;

-- [erased_streams] Who was erased between two numbers of the audit, in some partitions.
SELECT a.stream_id FROM unnest($1::integer[], $2::bigint[], $3::bigint[])
    AS w (partition, number, until)
CROSS JOIN LATERAL (
    SELECT r.stream_id FROM userlog.audit r
    WHERE r.partition = w.partition AND r.number > w.number AND r.number <= w.until
        AND r.position IS NOT NULL
    ORDER BY r.number LIMIT 1000000
) a;
