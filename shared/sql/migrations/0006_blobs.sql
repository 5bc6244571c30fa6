-- Content that a tenant has sent. Another's content is not known by its hash: who names it must have had it.
CREATE TABLE gateway.blob (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    object text NOT NULL CHECK (object ~ '^sha256:[0-9a-f]{64}$'),
    bytes bigint NOT NULL CHECK (bytes >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, object)
);
ALTER TABLE gateway.blob ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway.blob FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON gateway.blob TO heliu_app USING (tenant_id = core.current_tenant())
    WITH CHECK (tenant_id = core.current_tenant());
GRANT SELECT, INSERT ON gateway.blob TO heliu_app;
-- Removing a base asks for the adapters that stand on it.
CREATE INDEX model_base ON training.model (tenant_id, base_id) WHERE deleted_at IS NULL;
