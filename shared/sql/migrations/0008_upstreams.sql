-- A model that another OpenAI-compatible server answers for. What a tenant sees of it is a row of training.model.
ALTER TABLE training.model DROP CONSTRAINT model_kind_check;
ALTER TABLE training.model ADD CONSTRAINT model_kind_check CHECK (kind IN ('base', 'adapter', 'encoder', 'upstream'));

CREATE TABLE inference.upstream (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL,
    url text NOT NULL,
    model text NOT NULL,
    endpoints text[] NOT NULL,
    context_length integer CHECK (context_length > 0),
    api_key text,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name)
);
ALTER TABLE inference.upstream ENABLE ROW LEVEL SECURITY;
ALTER TABLE inference.upstream FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON inference.upstream TO heliu_app USING (tenant_id = core.current_tenant())
    WITH CHECK (tenant_id = core.current_tenant());
CREATE POLICY platform ON inference.upstream TO heliu_core USING (true);
-- The API key is read by the platform alone, and by no transaction that works as a tenant.
GRANT SELECT (id, tenant_id, name, url, model, endpoints, context_length, created_at), INSERT, DELETE,
    UPDATE (url, model, endpoints, context_length, api_key) ON inference.upstream TO heliu_app;
GRANT SELECT ON inference.upstream TO heliu_core;
