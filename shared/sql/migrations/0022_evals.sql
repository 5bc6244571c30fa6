-- Evals: criteria, runs that measure by them, and what each item of a run came to. A run's state and figures are its
-- job's; items are appended once and never changed, so that a gate can be replayed from them.
CREATE TABLE training.eval (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL,
    data_source_config jsonb NOT NULL,
    testing_criteria jsonb NOT NULL,
    -- What is measured over all items of a run, by which fields the figures are split, and which belong together.
    metrics jsonb NOT NULL DEFAULT '[]',
    slices jsonb NOT NULL DEFAULT '[]',
    cluster text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE INDEX eval_list ON training.eval (tenant_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;

CREATE TABLE training.eval_run (
    -- The job's id too, which is written later in the same transaction.
    id text PRIMARY KEY REFERENCES core.job (id) DEFERRABLE INITIALLY DEFERRED,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    eval_id text NOT NULL REFERENCES training.eval (id),
    name text NOT NULL,
    -- What is evaluated, as it was named; empty where answers were given.
    model text NOT NULL,
    data_source jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE INDEX eval_run_list ON training.eval_run (eval_id, created_at, id) WHERE deleted_at IS NULL;

CREATE TABLE training.eval_item (
    run_id text NOT NULL REFERENCES training.eval_run (id),
    item_no integer NOT NULL CHECK (item_no >= 0),
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    -- Hash of the source's item: the same item in another run has the same key.
    item_key text NOT NULL,
    -- Which items are not independent of each other; the item's own key where nothing says so.
    cluster text NOT NULL,
    passed boolean NOT NULL,
    -- Mean of the criteria, each brought to 0..1; an item with an error has 0.
    score double precision NOT NULL CHECK (score BETWEEN 0 AND 1),
    scores jsonb NOT NULL,
    slices jsonb NOT NULL,
    error jsonb,
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, item_no)
);
CREATE INDEX eval_item_key ON training.eval_item (run_id, item_key);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['training.eval', 'training.eval_run', 'training.eval_item'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %s TO heliu_app USING (tenant_id = core.current_tenant())
                        WITH CHECK (tenant_id = core.current_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT ON %s TO heliu_app', t);
    END LOOP;
END $$;
GRANT UPDATE (name, metadata, updated_at, deleted_at) ON training.eval TO heliu_app;
GRANT UPDATE (deleted_at) ON training.eval_run TO heliu_app;
-- Of a deleted run alone; see the gateway.
GRANT DELETE ON training.eval_item TO heliu_app;
