-- How generated answers are marked as such: of a tenant (task '') and of single tasks. Without a row none is.
CREATE TABLE gateway.marking (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    task text NOT NULL,
    spec jsonb NOT NULL,
    api_key_id text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, task)
);
ALTER TABLE gateway.marking ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway.marking FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON gateway.marking TO heliu_app USING (tenant_id = core.current_tenant())
    WITH CHECK (tenant_id = core.current_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.marking TO heliu_app;
