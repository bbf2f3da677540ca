-- The statements of bearer tokens.

-- [token_new] Keep a token's hash.
INSERT INTO userlog.tokens (id, hash, name, scopes, applications) VALUES ($1, $2, $3, $4, $5);

-- [tokens] All tokens, the newest first.
SELECT id, hash, name, scopes, applications, created_at, last_used_at, revoked_at
FROM userlog.tokens ORDER BY created_at DESC, id;

-- [tokens_used] Note when tokens were last used, unless another process has seen them later.
UPDATE userlog.tokens t SET last_used_at = greatest(t.last_used_at, u.at)
FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at) WHERE t.id = u.id;

-- [token_revoke] Let a token open nothing any more; no row if there is none.
UPDATE userlog.tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING id;
