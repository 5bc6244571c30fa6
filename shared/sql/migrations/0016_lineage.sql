-- Which answer a row of the ledger is of, so that an answer leads back to its model, and a model on to its answers.
ALTER TABLE gateway.usage ADD COLUMN answer_id text;
CREATE INDEX usage_answer ON gateway.usage (tenant_id, answer_id) WHERE answer_id IS NOT NULL;
CREATE INDEX usage_model ON gateway.usage (tenant_id, model, id);
CREATE INDEX usage_job ON gateway.usage (tenant_id, job_id, id) WHERE job_id IS NOT NULL;

-- Lineage is asked of the rows that are there already, from both of their ends.
CREATE INDEX model_data ON training.model (tenant_id, dataset_version) WHERE dataset_version IS NOT NULL;
CREATE INDEX model_job ON training.model (tenant_id, job_id) WHERE job_id IS NOT NULL;
CREATE INDEX version_file ON data_governance.version (tenant_id, file_id) WHERE file_id IS NOT NULL;
CREATE INDEX version_job ON data_governance.version (tenant_id, job_id);
CREATE INDEX file_job ON gateway.file (tenant_id, job_id) WHERE job_id IS NOT NULL;
CREATE INDEX job_validation ON core.job (tenant_id, (payload #>> '{validation,id}'))
    WHERE payload #>> '{validation,id}' IS NOT NULL;

-- Rows that belong to a subject who asked to be forgotten: no version that is built from now on has them.
CREATE TABLE data_governance.erasure (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    job_id text NOT NULL,
    -- What the subject was found by: row ids, or a column with the SHA-256 of its value, and never the value.
    subject jsonb NOT NULL,
    found jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX erasure_list ON data_governance.erasure (tenant_id, created_at DESC, id DESC);

CREATE TABLE data_governance.tombstone (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    row_id text NOT NULL,
    erasure_id text NOT NULL REFERENCES data_governance.erasure (id),
    PRIMARY KEY (tenant_id, row_id)
);

-- A version or a model that an erased row went into. It stays flagged; what is built in its place is another.
CREATE TABLE data_governance.needs_rebuild (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    kind text NOT NULL CHECK (kind IN ('version', 'model')),
    id text NOT NULL,
    erasure_id text NOT NULL REFERENCES data_governance.erasure (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, kind, id, erasure_id)
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['erasure', 'tombstone', 'needs_rebuild'] LOOP
        EXECUTE format('ALTER TABLE data_governance.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE data_governance.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON data_governance.%I TO heliu_app
                        USING (tenant_id = core.current_tenant()) WITH CHECK (tenant_id = core.current_tenant())', t);
        -- What was erased stays erased: nothing here is changed or taken back.
        EXECUTE format('GRANT SELECT, INSERT ON data_governance.%I TO heliu_app', t);
    END LOOP;
END $$;
