-- Tenants, keys, jobs, lanes, workers and outgoing webhooks: what every service stands on.

CREATE SCHEMA core;
GRANT USAGE ON SCHEMA core TO heliu_app, heliu_core;

-- The tenant of this transaction, or NULL: a policy that compares with NULL shows nothing.
CREATE FUNCTION core.current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT NULLIF(current_setting('app.tenant', true), '')::uuid $$;

CREATE TABLE core.setting (
    key text PRIMARY KEY,
    value jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE core.tenant (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    max_live integer NOT NULL DEFAULT 64 CHECK (max_live > 0),
    max_running integer NOT NULL DEFAULT 8 CHECK (max_running > 0),
    weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0)
);

CREATE TABLE core.api_key (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL,
    prefix text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('tenant', 'operator')),
    requests_per_minute integer CHECK (requests_per_minute > 0),
    tokens_per_day bigint CHECK (tokens_per_day > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX api_key_tenant ON core.api_key (tenant_id, created_at);

CREATE TABLE core.job (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    kind text NOT NULL,
    queue text NOT NULL,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN
        ('queued', 'leased', 'paused', 'succeeded', 'failed', 'dead', 'cancelled', 'expired')),
    priority integer NOT NULL DEFAULT 0,
    cost double precision NOT NULL DEFAULT 1 CHECK (cost > 0),
    payload jsonb NOT NULL,
    progress jsonb NOT NULL DEFAULT '{}',
    result jsonb,
    error jsonb,
    metadata jsonb NOT NULL DEFAULT '{}',
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL CHECK (max_attempts > 0),
    crashes integer NOT NULL DEFAULT 0,
    max_crashes integer NOT NULL CHECK (max_crashes > 0),
    epoch bigint NOT NULL DEFAULT 0,
    worker_id text,
    lease_until timestamptz,
    run_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz,
    cancel_requested_at timestamptz,
    pause_requested_at timestamptz,
    blocked_by integer NOT NULL DEFAULT 0 CHECK (blocked_by >= 0),
    parent_id text REFERENCES core.job (id) ON DELETE CASCADE,
    time_limit_s double precision CHECK (time_limit_s > 0),
    idempotency_key text,
    body_hash bytea,
    api_key_id text,
    traceparent text,
    CHECK ((state = 'leased') = (lease_until IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'dead', 'cancelled', 'expired')) = (finished_at IS NOT NULL))
);
CREATE UNIQUE INDEX job_idempotency ON core.job (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX job_ready ON core.job (queue, tenant_id, priority DESC, run_at, id)
    WHERE state = 'queued' AND blocked_by = 0;
CREATE INDEX job_lease ON core.job (lease_until) WHERE state = 'leased';
CREATE INDEX job_expiry ON core.job (expires_at) WHERE state IN ('queued', 'leased') AND expires_at IS NOT NULL;
CREATE INDEX job_list ON core.job (tenant_id, kind, created_at DESC, id DESC);
CREATE INDEX job_parent ON core.job (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX job_recent_body ON core.job (api_key_id, body_hash, created_at) WHERE body_hash IS NOT NULL;
-- Every claim, renewal and finish rewrites the row: leave room for heap-only updates.
ALTER TABLE core.job SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE core.job_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL,
    job_id text NOT NULL REFERENCES core.job (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    type text NOT NULL,
    level text NOT NULL DEFAULT 'info' CHECK (level IN ('info', 'warn', 'error')),
    message text NOT NULL,
    data jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX job_event_job ON core.job_event (job_id, id);

-- child waits for parent; on_failure 'fail' ends the child when the parent does not succeed.
CREATE TABLE core.dependency (
    parent_id text NOT NULL REFERENCES core.job (id) ON DELETE CASCADE,
    child_id text NOT NULL REFERENCES core.job (id) ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    on_failure text NOT NULL CHECK (on_failure IN ('fail', 'continue')),
    PRIMARY KEY (parent_id, child_id)
);
CREATE INDEX dependency_child ON core.dependency (child_id);

-- One row a queue and tenant: fairness (vtime) and cap (running < cap) without counting leases.
CREATE TABLE core.lane (
    queue text NOT NULL,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    running integer NOT NULL DEFAULT 0 CHECK (running >= 0),
    cap integer NOT NULL CHECK (cap > 0),
    weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    vtime double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, tenant_id)
);
CREATE INDEX lane_turn ON core.lane (queue, vtime, tenant_id) WHERE running < cap;
ALTER TABLE core.lane SET (fillfactor = 50);

CREATE TABLE core.worker (
    id text PRIMARY KEY,
    name text NOT NULL,
    service text NOT NULL,
    pool text NOT NULL,
    queues text[] NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    slots integer NOT NULL,
    busy integer NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'draining', 'stopped')),
    metrics_address text,
    info jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX worker_name ON core.worker (name, started_at);

CREATE TABLE core.webhook_endpoint (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    url text NOT NULL,
    secret text NOT NULL,
    events text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE INDEX webhook_endpoint_tenant ON core.webhook_endpoint (tenant_id) WHERE deleted_at IS NULL;

CREATE TABLE core.webhook_delivery (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    endpoint_id text NOT NULL REFERENCES core.webhook_endpoint (id) ON DELETE CASCADE,
    body text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    failed_at timestamptz,
    last_error text
);
CREATE INDEX webhook_delivery_due ON core.webhook_delivery (next_at) WHERE delivered_at IS NULL AND failed_at IS NULL;

CREATE TABLE core.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    data jsonb NOT NULL DEFAULT '{}'
);

-- A lane that wakes from idle starts at the lowest busy vtime, so it can neither hoard nor starve. It looks at
-- every tenant's lanes, hence SECURITY DEFINER; a tenant may wake no lane but its own.
CREATE FUNCTION core.wake_lane(q text, t uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$
DECLARE busy double precision;
BEGIN
    IF core.current_tenant() <> t THEN
        RAISE insufficient_privilege USING MESSAGE = 'a tenant may only wake its own lane';
    END IF;
    INSERT INTO core.lane (queue, tenant_id, cap, weight)
        SELECT q, t, max_running, weight FROM core.tenant WHERE id = t
        ON CONFLICT DO NOTHING;
    SELECT min(vtime) INTO busy FROM core.lane WHERE queue = q AND running > 0;
    IF busy IS NOT NULL THEN
        UPDATE core.lane SET vtime = busy
            WHERE queue = q AND tenant_id = t AND running = 0 AND vtime < busy
              AND NOT EXISTS (SELECT 1 FROM core.job j WHERE j.queue = q AND j.tenant_id = t
                              AND j.state = 'queued' AND j.blocked_by = 0);
    END IF;
END $$;

-- Claim the next job of a queue: lowest vtime first among tenants under their cap, then priority, age, id.
-- A lane locked by another claimer is passed over in the first round and waited for in the second, so a
-- single tenant's burst still fills every slot. Each statement sees a fresh snapshot, so a job that was
-- taken while waiting is never taken twice.
CREATE FUNCTION core.claim(q text, worker text, lease interval) RETURNS SETOF core.job LANGUAGE plpgsql AS $$
DECLARE
    candidate record;
    chosen text;
    waiting boolean;
BEGIN
    FOREACH waiting IN ARRAY ARRAY[false, true] LOOP
        FOR candidate IN
            SELECT l.tenant_id FROM core.lane l
            WHERE l.queue = q AND l.running < l.cap AND EXISTS (
                SELECT 1 FROM core.job j WHERE j.queue = q AND j.tenant_id = l.tenant_id
                AND j.state = 'queued' AND j.blocked_by = 0 AND j.run_at <= now())
            ORDER BY l.vtime, l.tenant_id LIMIT 16
        LOOP
            IF waiting THEN
                PERFORM 1 FROM core.lane WHERE queue = q AND tenant_id = candidate.tenant_id AND running < cap
                    FOR UPDATE;
            ELSE
                PERFORM 1 FROM core.lane WHERE queue = q AND tenant_id = candidate.tenant_id AND running < cap
                    FOR UPDATE SKIP LOCKED;
            END IF;
            CONTINUE WHEN NOT FOUND;
            SELECT id INTO chosen FROM core.job
                WHERE queue = q AND tenant_id = candidate.tenant_id AND state = 'queued' AND blocked_by = 0
                  AND run_at <= now()
                ORDER BY priority DESC, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            UPDATE core.lane l SET running = running + 1,
                    vtime = vtime + (SELECT cost FROM core.job WHERE id = chosen) / weight
                WHERE queue = q AND tenant_id = candidate.tenant_id;
            RETURN QUERY UPDATE core.job SET state = 'leased', epoch = epoch + 1, attempt = attempt + 1,
                    worker_id = worker, lease_until = clock_timestamp() + lease,
                    started_at = COALESCE(started_at, now())
                WHERE id = chosen RETURNING *;
            RETURN;
        END LOOP;
    END LOOP;
END $$;

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['api_key', 'job', 'job_event', 'dependency', 'lane', 'webhook_endpoint',
                             'webhook_delivery', 'audit'] LOOP
        EXECUTE format('ALTER TABLE core.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE core.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON core.%I TO heliu_app USING (tenant_id = core.current_tenant())
                        WITH CHECK (tenant_id = core.current_tenant())', t);
        EXECUTE format('CREATE POLICY platform ON core.%I TO heliu_core USING (true) WITH CHECK (true)', t);
    END LOOP;
END $$;
ALTER TABLE core.tenant ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.tenant FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON core.tenant TO heliu_app USING (id = core.current_tenant());
CREATE POLICY platform ON core.tenant TO heliu_core USING (true) WITH CHECK (true);
-- For core.wake_lane, which runs as the owner.
CREATE POLICY owner ON core.tenant FOR SELECT TO heliu_owner USING (true);
CREATE POLICY owner ON core.job FOR SELECT TO heliu_owner USING (true);
CREATE POLICY owner ON core.lane TO heliu_owner USING (true) WITH CHECK (true);

GRANT SELECT, INSERT, UPDATE ON core.job, core.job_event, core.dependency, core.lane, core.webhook_endpoint,
    core.webhook_delivery TO heliu_app;
GRANT SELECT, INSERT ON core.audit TO heliu_app, heliu_core;
GRANT SELECT ON core.tenant, core.setting TO heliu_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON core.job, core.job_event, core.dependency, core.lane, core.worker,
    core.webhook_delivery TO heliu_core;
GRANT SELECT, INSERT, UPDATE ON core.tenant, core.api_key, core.setting, core.webhook_endpoint TO heliu_core;
