-- Vector stores: files cut into chunks that are found again by words and by meaning. An index of a file is an
-- immutable artifact; which files a store has, and how far each has come, stands here.
CREATE TABLE data_governance.vector_store (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL,
    description text,
    metadata jsonb NOT NULL DEFAULT '{}',
    -- The encoder by content, as shared.contracts.inference.ModelRef; NULL is a store that is searched by words alone.
    encoder jsonb,
    expires_days integer CHECK (expires_days BETWEEN 1 AND 365),
    created_at timestamptz NOT NULL DEFAULT now(),
    last_active_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE INDEX vector_store_list ON data_governance.vector_store (tenant_id, created_at DESC, id DESC)
    WHERE deleted_at IS NULL;

CREATE TABLE data_governance.vector_store_batch (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    store_id text NOT NULL REFERENCES data_governance.vector_store (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz
);

CREATE TABLE data_governance.vector_store_file (
    store_id text NOT NULL REFERENCES data_governance.vector_store (id),
    file_id text NOT NULL REFERENCES gateway.file (id),
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    batch_id text REFERENCES data_governance.vector_store_batch (id),
    job_id text NOT NULL REFERENCES core.job (id),
    attributes jsonb NOT NULL DEFAULT '{}',
    chunking jsonb NOT NULL,
    -- What the job said at its end; of one that did not come to say anything, its own state tells.
    status text NOT NULL DEFAULT 'in_progress' CHECK (status IN ('in_progress', 'completed', 'failed', 'cancelled')),
    last_error jsonb,
    index_artifact text,
    chunks integer NOT NULL DEFAULT 0,
    usage_bytes bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, file_id),
    CHECK ((status = 'completed') = (index_artifact IS NOT NULL))
);
CREATE INDEX vector_store_file_list ON data_governance.vector_store_file (store_id, created_at DESC, file_id DESC);
CREATE INDEX vector_store_file_batch ON data_governance.vector_store_file (batch_id) WHERE batch_id IS NOT NULL;

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['data_governance.vector_store', 'data_governance.vector_store_batch',
                             'data_governance.vector_store_file'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %s TO heliu_app USING (tenant_id = core.current_tenant())
                        WITH CHECK (tenant_id = core.current_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %s TO heliu_app', t);
    END LOOP;
END $$;
GRANT DELETE ON data_governance.vector_store_file TO heliu_app;
