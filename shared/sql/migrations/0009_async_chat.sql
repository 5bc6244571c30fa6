-- What a chat in the background said, entry by entry, so that its stream can be read again after it has ended:
-- gzipped JSON [[type, data], ...].
CREATE TABLE inference.chat_answer (
    job_id text PRIMARY KEY REFERENCES core.job (id) ON DELETE CASCADE,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    entries bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE inference.chat_answer ENABLE ROW LEVEL SECURITY;
ALTER TABLE inference.chat_answer FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON inference.chat_answer TO heliu_app USING (tenant_id = core.current_tenant())
    WITH CHECK (tenant_id = core.current_tenant());
GRANT SELECT, INSERT ON inference.chat_answer TO heliu_app;
