-- Trials of searches for hyperparameters. A trial's run is a training job; here stands what was tried, what became of
-- it and, until the search is over, what it made: a search registers the models of the best one alone.
CREATE TABLE training.search_trial (
    search_id text NOT NULL REFERENCES core.job (id) ON DELETE CASCADE,
    number integer NOT NULL CHECK (number >= 0),
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    -- Written in the transaction that submits the job, before it.
    job_id text NOT NULL UNIQUE REFERENCES core.job (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    params jsonb NOT NULL,
    -- Of an open one the job's own state tells.
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'complete', 'pruned', 'failed', 'cancelled')),
    value double precision,
    -- Step -> [value, steps planned]: a step that is run again after a resume stands once.
    curve jsonb NOT NULL DEFAULT '{}',
    notes jsonb NOT NULL DEFAULT '{}',
    models jsonb,
    error jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    -- Whether the search's events have it.
    told boolean NOT NULL DEFAULT false,
    PRIMARY KEY (search_id, number),
    CHECK (state <> 'complete' OR value IS NOT NULL),
    CHECK ((state = 'open') = (settled_at IS NULL))
);

ALTER TABLE training.search_trial ENABLE ROW LEVEL SECURITY;
ALTER TABLE training.search_trial FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON training.search_trial TO heliu_app USING (tenant_id = core.current_tenant())
    WITH CHECK (tenant_id = core.current_tenant());
GRANT SELECT, INSERT, UPDATE ON training.search_trial TO heliu_app;
-- A trial that is settled never goes on: its checkpoints would only fill the store.
GRANT DELETE ON training.checkpoint TO heliu_app;
