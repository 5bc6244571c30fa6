-- Systems that data comes from. What a sync makes is a file; `state` says which file is the source's state, and how
-- far the source was read for it, so that one UPDATE publishes both. `generation` fences syncs against each other.
CREATE TABLE data_governance.source (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL,
    kind text NOT NULL,
    connection jsonb NOT NULL,
    options jsonb NOT NULL,
    sealed text,
    cron text,
    timezone text NOT NULL DEFAULT 'UTC',
    next_at timestamptz,
    build jsonb,
    generation bigint NOT NULL DEFAULT 0,
    state jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CHECK ((cron IS NULL) = (next_at IS NULL))
);
CREATE UNIQUE INDEX source_name ON data_governance.source (tenant_id, name) WHERE deleted_at IS NULL;
CREATE INDEX source_due ON data_governance.source (next_at) WHERE next_at IS NOT NULL AND deleted_at IS NULL;

-- The syncs of a source are jobs; a moment of its schedule is the idempotency key of one.
CREATE INDEX job_source ON core.job ((payload ->> 'source_id'), created_at DESC, id DESC) WHERE kind = 'data.sync';

-- The files or objects of a source as they were when its state was made.
CREATE TABLE data_governance.source_item (
    source_id text NOT NULL REFERENCES data_governance.source (id),
    item text NOT NULL,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    fingerprint text NOT NULL,
    digest text NOT NULL,
    PRIMARY KEY (source_id, item)
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['source', 'source_item'] LOOP
        EXECUTE format('ALTER TABLE data_governance.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE data_governance.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON data_governance.%I TO heliu_app
                        USING (tenant_id = core.current_tenant()) WITH CHECK (tenant_id = core.current_tenant())', t);
    END LOOP;
END $$;
-- Credentials are read by the platform alone, sealed as they are, and by no transaction that works as a tenant.
GRANT SELECT (id, tenant_id, name, kind, connection, options, cron, timezone, next_at, build, generation, state,
    created_at, deleted_at), INSERT,
    UPDATE (connection, options, sealed, cron, timezone, next_at, build, generation, state, deleted_at)
    ON data_governance.source TO heliu_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON data_governance.source_item TO heliu_app;
-- The dispatcher looks for schedules that are due, and keys are changed for all tenants at once.
CREATE POLICY platform ON data_governance.source TO heliu_core USING (true) WITH CHECK (true);
GRANT SELECT, UPDATE (sealed) ON data_governance.source TO heliu_core;
GRANT SELECT, UPDATE (api_key) ON inference.upstream TO heliu_core;
