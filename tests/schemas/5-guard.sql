-- What only a single server has; distributed PostgreSQL refuses triggers on its tables, and this file
-- is left out as a whole.

-- docs/planner.md, 2.
ALTER FUNCTION userlog.append SET plan_cache_mode = force_generic_plan;

-- A guard against changing the log's rows by accident, also by their owner. Where it is left out, the
-- rights in schema.sql remain. A superuser can switch it off (session_replication_role), which
-- `userlog verify` is for.

CREATE FUNCTION userlog.refuse_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'the log is immutable: % on userlog.events is refused', TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER events_are_immutable BEFORE UPDATE OR DELETE ON userlog.events
FOR EACH ROW EXECUTE FUNCTION userlog.refuse_change();

CREATE TRIGGER events_are_not_emptied BEFORE TRUNCATE ON userlog.events
FOR EACH STATEMENT EXECUTE FUNCTION userlog.refuse_change();
