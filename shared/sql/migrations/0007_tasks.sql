-- A task, its versions, and which of them its callers get. Nobody may change a version, or what was once routed.
CREATE TABLE gateway.task (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL,
    description text,
    latest integer NOT NULL,
    route_id bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX task_name ON gateway.task (tenant_id, name) WHERE deleted_at IS NULL;

CREATE TABLE gateway.task_version (
    task_id text NOT NULL REFERENCES gateway.task (id),
    version integer NOT NULL,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    spec jsonb NOT NULL,
    note text,
    api_key_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, version)
);

-- `weights` is [[version, weight], ...]; `back_id` is the route that a roll-back goes to.
CREATE TABLE gateway.task_route (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL REFERENCES gateway.task (id),
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    weights jsonb NOT NULL,
    back_id bigint,
    api_key_id text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX task_route_task ON gateway.task_route (task_id, id DESC);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['gateway.task', 'gateway.task_version', 'gateway.task_route'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %s TO heliu_app USING (tenant_id = core.current_tenant())
                        WITH CHECK (tenant_id = core.current_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT ON %s TO heliu_app', t);
    END LOOP;
END $$;
GRANT UPDATE (latest, route_id, deleted_at) ON gateway.task TO heliu_app;

-- Which task and version an answer came of; never text.
ALTER TABLE gateway.usage ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}';
CREATE INDEX usage_task ON gateway.usage (tenant_id, (metadata ->> 'task'), created_at) WHERE metadata ? 'task';
