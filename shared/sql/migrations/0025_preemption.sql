-- Jobs that may be asked to give their worker up, from their submission on; most jobs have no row.
CREATE TABLE core.preemptible (
    job_id text PRIMARY KEY REFERENCES core.job (id) ON DELETE CASCADE,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    -- The lease that is asked to: a later one is not, so a request never outlives the attempt that it was for.
    asked_epoch bigint,
    asked_at timestamptz,
    -- Since when it waits for its cause to be over. It counts as one of the job's `blocked_by` meanwhile.
    held_since timestamptz,
    -- What it gives way to: `peak <rule>`, or `job <id>`; in words in `reason`.
    cause text,
    reason text,
    times integer NOT NULL DEFAULT 0,
    CHECK (asked_epoch IS NULL OR cause IS NOT NULL),
    CHECK (held_since IS NULL OR cause IS NOT NULL)
);
CREATE INDEX preemptible_held ON core.preemptible (cause) WHERE held_since IS NOT NULL OR asked_epoch IS NOT NULL;

ALTER TABLE core.preemptible ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.preemptible FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON core.preemptible TO heliu_app USING (tenant_id = core.current_tenant())
    WITH CHECK (tenant_id = core.current_tenant());
CREATE POLICY platform ON core.preemptible TO heliu_core USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON core.preemptible TO heliu_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON core.preemptible TO heliu_core;
