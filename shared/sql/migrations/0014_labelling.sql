-- People label items of a project. What they said is only ever appended; turns and items hold where things stand.
CREATE TABLE data_governance.label_project (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL,
    spec jsonb NOT NULL,
    source jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX label_project_name ON data_governance.label_project (tenant_id, name) WHERE deleted_at IS NULL;

-- A person with a token for one project; one whose labels were imported has none.
CREATE TABLE data_governance.label_labeller (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    project_id text NOT NULL REFERENCES data_governance.label_project (id),
    name text NOT NULL,
    prefix text,
    digest bytea UNIQUE,
    adjudicates boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    UNIQUE (project_id, name)
);

-- `taken` counts labels and living leases, so that two claims at once meet on this row; `needed` labels make it full.
CREATE TABLE data_governance.label_item (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    project_id text NOT NULL REFERENCES data_governance.label_project (id),
    position bigint NOT NULL,
    row_id text NOT NULL,
    data jsonb NOT NULL,
    extra jsonb NOT NULL DEFAULT '{}',
    gold jsonb,
    weak jsonb,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'adjudication', 'done', 'gold')),
    taken integer NOT NULL DEFAULT 0 CHECK (taken >= 0),
    needed integer NOT NULL CHECK (needed > 0),
    adjudicating boolean NOT NULL DEFAULT false,
    priority double precision NOT NULL DEFAULT 0,
    agreement double precision,
    final jsonb,
    final_by text CHECK (final_by IN ('agreement', 'adjudicator')),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, position),
    CHECK ((state = 'gold') = (gold IS NOT NULL)),
    CHECK ((final IS NULL) = (final_by IS NULL))
);
CREATE INDEX label_item_next ON data_governance.label_item (project_id, priority DESC, position)
    WHERE state = 'open' AND taken < needed;
CREATE INDEX label_item_state ON data_governance.label_item (project_id, state, position);
ALTER TABLE data_governance.label_item SET (fillfactor = 80);

-- Whose turn an item was, is or was not: a labeller has at most one of each item, so never sees it twice.
CREATE TABLE data_governance.label_turn (
    item_id text NOT NULL REFERENCES data_governance.label_item (id),
    labeller_id text NOT NULL REFERENCES data_governance.label_labeller (id),
    role text NOT NULL CHECK (role IN ('label', 'adjudicate')),
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    project_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('leased', 'labelled', 'skipped')),
    until timestamptz,
    value jsonb,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (item_id, labeller_id, role),
    CHECK ((state = 'leased') = (until IS NOT NULL)),
    CHECK ((state = 'labelled') = (value IS NOT NULL))
);
CREATE INDEX label_turn_lease ON data_governance.label_turn (project_id, until) WHERE state = 'leased';
CREATE INDEX label_turn_labeller ON data_governance.label_turn (labeller_id, updated_at DESC);

CREATE TABLE data_governance.label_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    project_id text NOT NULL,
    item_id text NOT NULL,
    labeller_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('label', 'correct', 'skip', 'adjudicate', 'import')),
    value jsonb,
    seconds double precision CHECK (seconds >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX label_event_item ON data_governance.label_event (item_id, id);

-- Of the newest look at a project alone: labels that a classifier of the others doubts.
CREATE TABLE data_governance.label_suspect (
    project_id text NOT NULL REFERENCES data_governance.label_project (id),
    item_id text NOT NULL REFERENCES data_governance.label_item (id),
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    job_id text NOT NULL,
    given text NOT NULL,
    guessed text NOT NULL,
    quality double precision NOT NULL,
    PRIMARY KEY (project_id, item_id)
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['label_project', 'label_labeller', 'label_item', 'label_turn', 'label_event',
                             'label_suspect'] LOOP
        EXECUTE format('ALTER TABLE data_governance.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE data_governance.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON data_governance.%I TO heliu_app
                        USING (tenant_id = core.current_tenant()) WITH CHECK (tenant_id = core.current_tenant())', t);
    END LOOP;
END $$;
CREATE POLICY platform ON data_governance.label_labeller TO heliu_core USING (true);
CREATE POLICY platform ON data_governance.label_project TO heliu_core USING (true);
-- The platform alone looks a token up; no transaction that works as a tenant reads a digest.
GRANT SELECT ON data_governance.label_labeller, data_governance.label_project TO heliu_core;
GRANT SELECT, INSERT, UPDATE (spec, deleted_at) ON data_governance.label_project TO heliu_app;
GRANT SELECT (id, tenant_id, project_id, name, prefix, adjudicates, created_at, revoked_at), INSERT,
    UPDATE (revoked_at) ON data_governance.label_labeller TO heliu_app;
GRANT SELECT, INSERT, UPDATE (gold, weak, state, taken, needed, adjudicating, priority, agreement, final, final_by)
    ON data_governance.label_item TO heliu_app;
GRANT SELECT, INSERT, DELETE, UPDATE (state, until, value, updated_at) ON data_governance.label_turn TO heliu_app;
GRANT SELECT, INSERT ON data_governance.label_event TO heliu_app;
GRANT SELECT, INSERT, DELETE ON data_governance.label_suspect TO heliu_app;
