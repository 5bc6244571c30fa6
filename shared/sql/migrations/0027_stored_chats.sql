-- Chats that their client asked to be stored: what the model was sent and what was shown of its answer, each under the
-- id of the answer. A deleted one keeps its row, without texts, so that its id is not taken for another's.
CREATE TABLE gateway.stored_chat (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    id text NOT NULL,
    -- In the order of storing: `created_at` is in whole seconds, as clients are told it.
    number bigint GENERATED ALWAYS AS IDENTITY,
    created_at timestamptz NOT NULL,
    -- As the answer names it, and every name that it is looked for by: of a task or a registered model the model too.
    model text NOT NULL,
    models text[] NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    api_key_id text,
    -- shared.contracts.stored_chats.StoredBody. No jsonb: a model may say what that cannot hold.
    body json,
    deleted_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK ((body IS NULL) = (deleted_at IS NOT NULL))
);
CREATE INDEX stored_chat_list ON gateway.stored_chat (tenant_id, created_at, number) WHERE deleted_at IS NULL;
CREATE INDEX stored_chat_metadata ON gateway.stored_chat USING gin (metadata jsonb_path_ops) WHERE deleted_at IS NULL;
CREATE INDEX stored_chat_age ON gateway.stored_chat (created_at);

-- Which stored answers a file was made of: lineage leads through it in both directions, and outlives the chats.
CREATE TABLE gateway.stored_chat_file (
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    file_id text NOT NULL REFERENCES gateway.file (id),
    answer_id text NOT NULL,
    job_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (file_id, answer_id)
);
CREATE INDEX stored_chat_file_answer ON gateway.stored_chat_file (tenant_id, answer_id);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['gateway.stored_chat', 'gateway.stored_chat_file'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %s TO heliu_app USING (tenant_id = core.current_tenant())
                        WITH CHECK (tenant_id = core.current_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT ON %s TO heliu_app', t);
    END LOOP;
END $$;
GRANT UPDATE (metadata, body, deleted_at) ON gateway.stored_chat TO heliu_app;
-- Whoever drops what is older than the platform keeps.
CREATE POLICY platform ON gateway.stored_chat TO heliu_core USING (true);
GRANT SELECT, DELETE ON gateway.stored_chat TO heliu_core;
