-- A name that asks a second key who answers is not deleted by one alone, who could make it anew without asking. Nor does
-- a deleted one come back.
CREATE FUNCTION gateway.registry_ended() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.approval = 'required' OR OLD.deleted_at IS NOT NULL THEN
        PERFORM gateway.registry_refuse('approval_required', format(
            'what changes who answers %s waits for a second key, and so does its end: have approval set to none first',
            OLD.name));
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER registry_ended BEFORE UPDATE OF deleted_at ON gateway.registry
    FOR EACH ROW EXECUTE FUNCTION gateway.registry_ended();
