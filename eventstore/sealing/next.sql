-- Keys of the log's own, beside the read models that an upgrade makes, in the schema of these.

-- [has_own_keys] Whether the log has a place for them; from version 3 on it has.
SELECT to_regclass('userlog.keys') IS NOT NULL;

-- [own_key_next] One of them.
SELECT wrapped FROM userlog_next.own_keys WHERE name = $1;

-- [own_key_next_make] Make one, unless there is one.
INSERT INTO userlog_next.own_keys (name, wrapped) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;

-- [own_keys_next] All of them.
SELECT name, wrapped FROM userlog_next.own_keys;

-- [own_key_keep] Put one into its place, unless it is there already.
INSERT INTO userlog.keys (name, fingerprint, wrapped) VALUES ($1, $2, $3)
ON CONFLICT (name) DO NOTHING;
