-- A lane that wakes starts where the queue stands, whoever happens to run in this moment: at the lowest vtime of the
-- lanes that a claim may take from next, or at the highest of all when none waits. By the lanes that run alone, a
-- queue that was idle for a moment put a new tenant at 0 and so before everybody who had ever worked, for as long as
-- they had; and one lane that was held at its cap, far behind, drew every newcomer back to itself.
CREATE OR REPLACE FUNCTION core.wake_lane(q text, t uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$
DECLARE here double precision;
BEGIN
    IF core.current_tenant() <> t THEN
        RAISE insufficient_privilege USING MESSAGE = 'a tenant may only wake its own lane';
    END IF;
    INSERT INTO core.lane (queue, tenant_id, cap, weight)
        SELECT q, t, max_running, weight FROM core.tenant WHERE id = t
        ON CONFLICT DO NOTHING;
    IF EXISTS (SELECT 1 FROM core.lane WHERE queue = q AND tenant_id = t AND running > 0)
       OR EXISTS (SELECT 1 FROM core.job WHERE queue = q AND tenant_id = t AND state = 'queued' AND blocked_by = 0
                  AND run_at <= now()) THEN
        RETURN;
    END IF;
    SELECT l.vtime INTO here FROM core.lane l
        WHERE l.queue = q AND l.tenant_id <> t AND l.running < l.cap AND EXISTS (
            SELECT 1 FROM core.job j WHERE j.queue = q AND j.tenant_id = l.tenant_id
            AND j.state = 'queued' AND j.blocked_by = 0 AND j.run_at <= now())
        ORDER BY l.vtime LIMIT 1;
    IF here IS NULL THEN
        SELECT max(vtime) INTO here FROM core.lane WHERE queue = q;
    END IF;
    UPDATE core.lane SET vtime = here WHERE queue = q AND tenant_id = t AND running = 0 AND vtime < here;
END $$;
