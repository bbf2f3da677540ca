-- To version 6: the log has an identity, and signed heads.
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

UPDATE userlog.meta SET schema_version = 6, digest = '4a15be022b87de3f';
