-- The tables of each service, one schema a service, every tenant's rows apart by forced row-level security.

CREATE SCHEMA gateway;
CREATE SCHEMA data_governance;
CREATE SCHEMA training;
CREATE SCHEMA inference;
CREATE SCHEMA monitoring;
GRANT USAGE ON SCHEMA gateway, data_governance, training, inference, monitoring TO heliu_app, heliu_core;

CREATE TABLE gateway.file (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    filename text NOT NULL,
    purpose text NOT NULL,
    bytes bigint NOT NULL,
    artifact text NOT NULL,
    status text NOT NULL DEFAULT 'processed',
    status_details text,
    job_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    deleted_at timestamptz
);
CREATE INDEX file_list ON gateway.file (tenant_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;

-- One row per answer of a model: the ledger of tokens and seconds; never text.
CREATE TABLE gateway.usage (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    api_key_id text,
    request_id text NOT NULL,
    job_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    endpoint text NOT NULL,
    model text NOT NULL,
    model_artifact text,
    pool text NOT NULL,
    status text NOT NULL,
    prompt_tokens integer NOT NULL,
    completion_tokens integer NOT NULL,
    seconds double precision NOT NULL,
    first_token_seconds double precision,
    trace_id text,
    UNIQUE (tenant_id, request_id)
);
CREATE INDEX usage_time ON gateway.usage (created_at);
CREATE INDEX usage_key ON gateway.usage (api_key_id, created_at);

-- Fixed one-minute windows; in Postgres so that they outlive a flush of Redis.
CREATE TABLE gateway.rate_window (
    api_key_id text NOT NULL,
    window_start timestamptz NOT NULL,
    requests integer NOT NULL,
    PRIMARY KEY (api_key_id, window_start)
);

CREATE TABLE data_governance.dataset (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL,
    current_version text,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX dataset_name ON data_governance.dataset (tenant_id, name) WHERE deleted_at IS NULL;

CREATE TABLE data_governance.version (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    id text NOT NULL,
    dataset_id text NOT NULL REFERENCES data_governance.dataset (id),
    job_id text NOT NULL,
    file_id text,
    artifact text NOT NULL,
    rows bigint NOT NULL,
    train_rows bigint NOT NULL,
    validation_rows bigint NOT NULL,
    gate_passed boolean NOT NULL,
    gate jsonb NOT NULL,
    report jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, dataset_id, id)
);
CREATE INDEX version_id ON data_governance.version (tenant_id, id);

CREATE TABLE training.model (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('base', 'adapter')),
    base_id text,
    artifact text NOT NULL,
    base_artifact text,
    job_id text,
    dataset_version text,
    info jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK ((kind = 'adapter') = (base_artifact IS NOT NULL))
);

CREATE TABLE training.checkpoint (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    job_id text NOT NULL REFERENCES core.job (id) ON DELETE CASCADE,
    step integer NOT NULL,
    epoch bigint NOT NULL,
    artifact text NOT NULL,
    model_id text NOT NULL,
    metrics jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (job_id, step)
);

-- A row exists once its answer or its error does; the primary key forbids a second one.
CREATE TABLE inference.batch_row (
    batch_id text NOT NULL REFERENCES core.job (id) ON DELETE CASCADE,
    row_no integer NOT NULL,
    tenant_id uuid NOT NULL,
    custom_id text NOT NULL,
    status_code integer NOT NULL,
    body jsonb NOT NULL,
    prompt_tokens integer NOT NULL DEFAULT 0,
    completion_tokens integer NOT NULL DEFAULT 0,
    epoch bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, row_no)
);

CREATE TABLE monitoring.span (
    trace_id text NOT NULL,
    span_id text NOT NULL,
    parent_id text,
    tenant_id uuid,
    service text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    start_ns bigint NOT NULL,
    end_ns bigint NOT NULL,
    status text NOT NULL,
    status_message text,
    attributes jsonb NOT NULL DEFAULT '{}',
    events jsonb NOT NULL DEFAULT '[]',
    links jsonb NOT NULL DEFAULT '[]',
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (trace_id, span_id)
);
CREATE INDEX span_received ON monitoring.span (received_at);
CREATE INDEX span_start ON monitoring.span (start_ns DESC) WHERE parent_id IS NULL;

CREATE TABLE monitoring.rollup (
    minute timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    model text NOT NULL,
    pool text NOT NULL,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    seconds_sum double precision NOT NULL,
    seconds_p95 double precision NOT NULL,
    first_token_p95 double precision,
    PRIMARY KEY (minute, tenant_id, model, pool)
);

CREATE TABLE monitoring.alert (
    id text PRIMARY KEY,
    rule text NOT NULL,
    subject text NOT NULL,
    tenant_id uuid,
    severity text NOT NULL,
    message text NOT NULL,
    value double precision NOT NULL,
    threshold double precision NOT NULL,
    trace_ids text[] NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz
);
CREATE UNIQUE INDEX alert_open ON monitoring.alert (rule, subject) WHERE resolved_at IS NULL;

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['gateway.file', 'gateway.usage', 'data_governance.dataset', 'data_governance.version',
                             'training.model', 'training.checkpoint', 'inference.batch_row', 'monitoring.span',
                             'monitoring.rollup', 'monitoring.alert'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %s TO heliu_app USING (tenant_id = core.current_tenant())
                        WITH CHECK (tenant_id = core.current_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %s TO heliu_app', t);
    END LOOP;
    -- What the platform itself reads or writes across tenants, and nothing else.
    FOREACH t IN ARRAY ARRAY['gateway.usage', 'monitoring.span', 'monitoring.rollup', 'monitoring.alert'] LOOP
        EXECUTE format('CREATE POLICY platform ON %s TO heliu_core USING (true) WITH CHECK (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO heliu_core', t);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.rate_window TO heliu_core;
