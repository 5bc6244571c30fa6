-- Named pointers at versions of a dataset. A move names what it moves from, so that of two movers one is told.
CREATE TABLE data_governance.tag (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    dataset_id text NOT NULL REFERENCES data_governance.dataset (id),
    name text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    version_id text NOT NULL,
    moves integer NOT NULL DEFAULT 1,
    api_key_id text,
    moved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, dataset_id, name),
    FOREIGN KEY (tenant_id, dataset_id, version_id) REFERENCES data_governance.version (tenant_id, dataset_id, id)
);
CREATE INDEX tag_version ON data_governance.tag (tenant_id, version_id);

-- Which versions of a dataset are kept: its newest `keep_last`, and all younger than `keep_days`; besides those that
-- are current, tagged, or that a model learned from. Without a row all are kept.
CREATE TABLE data_governance.retention (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    dataset_id text NOT NULL REFERENCES data_governance.dataset (id),
    keep_last integer NOT NULL CHECK (keep_last > 0),
    keep_days integer NOT NULL CHECK (keep_days >= 0),
    PRIMARY KEY (tenant_id, dataset_id)
);

-- A version whose files are gone stays known: what learned from it, or answered, still leads back to it.
ALTER TABLE data_governance.version ADD COLUMN deleted_at timestamptz;

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tag', 'retention'] LOOP
        EXECUTE format('ALTER TABLE data_governance.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE data_governance.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON data_governance.%I TO heliu_app
                        USING (tenant_id = core.current_tenant()) WITH CHECK (tenant_id = core.current_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON data_governance.%I TO heliu_app', t);
    END LOOP;
END $$;
