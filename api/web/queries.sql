-- The statements of bearer tokens.

-- [token_new] Keep a token's hash.
INSERT INTO userlog.tokens (id, hash, name, scopes, applications) VALUES ($1, $2, $3, $4, $5);

-- [tokens] All tokens, the newest first.
SELECT id, hash, name, scopes, applications, created_at, last_used_at, revoked_at
FROM userlog.tokens ORDER BY created_at DESC, id;

-- [tokens_used] Note when tokens were last used.
SELECT userlog.token_used($1, $2);

-- [token_revoke] Let a token open nothing any more; no row if there is none.
SELECT userlog.token_revoke($1);
