-- Registered models: a name with numbered versions, of which one is in production, and one may get a share beside it.
-- What a tenant's transactions may write here by themselves is what changes nothing: decisions, waivers and requests,
-- each for good. Versions, stages and who answers move in the functions below alone.
CREATE TABLE gateway.registry (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    description text,
    gates jsonb NOT NULL,
    approval text NOT NULL DEFAULT 'none' CHECK (approval IN ('none', 'required')),
    latest integer NOT NULL DEFAULT 0,
    head_id bigint,
    api_key_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX registry_name ON gateway.registry (tenant_id, name) WHERE deleted_at IS NULL;

CREATE TABLE gateway.registry_version (
    registry_id text NOT NULL REFERENCES gateway.registry (id),
    version integer NOT NULL,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    model_id text NOT NULL,
    stage text NOT NULL DEFAULT 'candidate' CHECK (stage IN ('candidate', 'staging', 'production', 'archived')),
    note text,
    api_key_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (registry_id, version),
    UNIQUE (registry_id, model_id),
    FOREIGN KEY (tenant_id, model_id) REFERENCES training.model (tenant_id, id)
);
CREATE UNIQUE INDEX registry_production ON gateway.registry_version (registry_id) WHERE stage = 'production';
CREATE INDEX registry_version_model ON gateway.registry_version (tenant_id, model_id);

-- Passed where there are checks and each is passed, or let through by name; failed where one failed.
CREATE FUNCTION gateway.registry_verdict(checks jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog AS $$
    SELECT CASE
        WHEN COALESCE(jsonb_typeof(checks), 'null') <> 'array' OR jsonb_array_length(checks) = 0 THEN 'inconclusive'
        WHEN jsonb_path_exists(checks, '$[*] ? (@.outcome == "failed")') THEN 'failed'
        WHEN (SELECT bool_and(COALESCE(one ->> 'outcome', '') IN ('passed', 'waived', 'not_applicable'))
              FROM jsonb_array_elements(checks) AS one) THEN 'passed'
        ELSE 'inconclusive' END
$$;

-- What was looked at, found and decided; `against` is the version that was in production. The verdict follows from the
-- checks, and nobody can write it.
CREATE TABLE gateway.registry_decision (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    registry_id text NOT NULL,
    version integer NOT NULL,
    against integer,
    gates jsonb NOT NULL,
    record jsonb NOT NULL,
    record_hash text NOT NULL,
    checks jsonb NOT NULL,
    verdict text NOT NULL GENERATED ALWAYS AS (gateway.registry_verdict(checks)) STORED,
    api_key_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    FOREIGN KEY (registry_id, version) REFERENCES gateway.registry_version (registry_id, version)
);
CREATE INDEX registry_decision_list ON gateway.registry_decision (registry_id, version, created_at DESC);

-- One check of one version that may fail until then, by whoever answers for that.
CREATE TABLE gateway.registry_waiver (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    registry_id text NOT NULL,
    version integer NOT NULL,
    check_name text NOT NULL,
    reason text NOT NULL,
    api_key_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    FOREIGN KEY (registry_id, version) REFERENCES gateway.registry_version (registry_id, version)
);
CREATE INDEX registry_waiver_list ON gateway.registry_waiver (registry_id, version, created_at DESC);

-- What waits for a second key, and what that key said: an answer is there once.
CREATE TABLE gateway.registry_request (
    id text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    registry_id text NOT NULL REFERENCES gateway.registry (id),
    action text NOT NULL CHECK (action IN ('promote', 'canary', 'settings')),
    version integer,
    share integer,
    decision_id text REFERENCES gateway.registry_decision (id),
    settings jsonb,
    reason text,
    api_key_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX registry_request_list ON gateway.registry_request (registry_id, created_at DESC);

CREATE TABLE gateway.registry_answer (
    request_id text PRIMARY KEY REFERENCES gateway.registry_request (id),
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    approved boolean NOT NULL,
    reason text,
    api_key_id text,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- All that happened, and who has answered since: `share` of `canary` is in parts of 10,000, `back_id` the event whose
-- production a roll-back goes to.
CREATE TABLE gateway.registry_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES core.tenant (id),
    registry_id text NOT NULL REFERENCES gateway.registry (id),
    action text NOT NULL,
    version integer,
    from_stage text,
    to_stage text,
    production integer,
    canary integer,
    share integer NOT NULL DEFAULT 0 CHECK (share >= 0 AND share < 10000),
    back_id bigint,
    decision_id text,
    request_id text,
    data jsonb NOT NULL DEFAULT '{}',
    reason text,
    api_key_id text,
    approved_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((canary IS NULL) = (share = 0))
);
CREATE INDEX registry_event_list ON gateway.registry_event (registry_id, id DESC);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['registry', 'registry_version', 'registry_decision', 'registry_waiver',
                             'registry_request', 'registry_answer', 'registry_event'] LOOP
        EXECUTE format('ALTER TABLE gateway.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE gateway.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON gateway.%I TO heliu_app USING (tenant_id = core.current_tenant())
                        WITH CHECK (tenant_id = core.current_tenant())', t);
        -- For the functions, which run as the owner: they work for the tenant of the transaction too.
        EXECUTE format('CREATE POLICY owner ON gateway.%I TO heliu_owner USING (tenant_id = core.current_tenant())
                        WITH CHECK (tenant_id = core.current_tenant())', t);
        EXECUTE format('GRANT SELECT ON gateway.%I TO heliu_app', t);
    END LOOP;
END $$;
GRANT INSERT (id, tenant_id, name, description, gates, approval, api_key_id), UPDATE (description, deleted_at)
    ON gateway.registry TO heliu_app;
GRANT INSERT ON gateway.registry_decision, gateway.registry_waiver, gateway.registry_request TO heliu_app;

-- A refusal: its code is the name of the constraint that it stands for.
CREATE FUNCTION gateway.registry_refuse(code text, message text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = code, MESSAGE = message;
END $$;

-- The registered model of this transaction's tenant, locked until it ends: moves of one name follow each other.
CREATE FUNCTION gateway.registry_locked(p_registry text) RETURNS gateway.registry LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
DECLARE r gateway.registry;
BEGIN
    SELECT * INTO r FROM gateway.registry
        WHERE id = p_registry AND tenant_id = core.current_tenant() AND deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM gateway.registry_refuse('not_found', 'the registered model is gone');
    END IF;
    RETURN r;
END $$;

-- The legal moves of a version, as shared.contracts.model_registry has them.
CREATE FUNCTION gateway.registry_legal(p_action text, p_from text) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog AS $$
    SELECT CASE
        WHEN p_action = 'stage' AND p_from IN ('candidate', 'archived') THEN 'staging'
        WHEN p_action = 'archive' AND p_from IN ('candidate', 'staging') THEN 'archived'
        WHEN p_action = 'promote' AND p_from = 'staging' THEN 'production'
        WHEN p_action = 'canary' AND p_from = 'staging' THEN 'staging'
        WHEN p_action = 'retire' AND p_from = 'production' THEN 'archived'
        WHEN p_action = 'restore' AND p_from IN ('archived', 'staging') THEN 'production' END
$$;

-- A new version, a candidate; what the name has already is not added twice.
CREATE FUNCTION gateway.registry_add(p_registry text, p_model text, p_note text, p_key text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    r gateway.registry;
    h gateway.registry_event;
    number integer;
    made bigint;
BEGIN
    r := gateway.registry_locked(p_registry);
    SELECT version INTO number FROM gateway.registry_version WHERE registry_id = r.id AND model_id = p_model;
    IF FOUND THEN
        RETURN number;
    END IF;
    SELECT * INTO h FROM gateway.registry_event WHERE id = r.head_id;
    number := r.latest + 1;
    INSERT INTO gateway.registry_version (registry_id, version, tenant_id, model_id, note, api_key_id)
        VALUES (r.id, number, r.tenant_id, p_model, p_note, p_key);
    INSERT INTO gateway.registry_event (tenant_id, registry_id, action, version, to_stage, production, canary, share,
            back_id, data, reason, api_key_id)
        VALUES (r.tenant_id, r.id, 'register', number, 'candidate', h.production, h.canary, COALESCE(h.share, 0),
            h.back_id, jsonb_build_object('model', p_model), p_note, p_key) RETURNING id INTO made;
    UPDATE gateway.registry SET latest = number, head_id = made WHERE id = r.id;
    RETURN number;
END $$;

-- Raises unless this decision lets this version answer beside, or instead of, what is in production now.
CREATE FUNCTION gateway.registry_authorise(r gateway.registry, p_version integer, p_against integer, p_decision text,
    p_key text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    d gateway.registry_decision;
    one jsonb;
BEGIN
    SELECT * INTO d FROM gateway.registry_decision WHERE id = p_decision AND registry_id = r.id;
    IF NOT FOUND THEN
        PERFORM gateway.registry_refuse('decision_missing', 'no decision of the gates is given');
    ELSIF d.version <> p_version OR d.against IS DISTINCT FROM p_against THEN
        PERFORM gateway.registry_refuse('decision_stale', format(
            'decision %s is of version %s against %s; now it is version %s against %s', d.id, d.version,
            COALESCE(d.against::text, 'none'), p_version, COALESCE(p_against::text, 'none')));
    ELSIF d.gates <> r.gates THEN
        PERFORM gateway.registry_refuse('decision_stale',
            format('the gates were changed since decision %s', d.id));
    ELSIF d.verdict <> 'passed' THEN
        PERFORM gateway.registry_refuse('promotion_blocked',
            format('decision %s is %s', d.id, d.verdict));
    ELSIF d.expires_at <= now() THEN
        PERFORM gateway.registry_refuse('decision_expired', format('decision %s has expired', d.id));
    END IF;
    FOR one IN SELECT c FROM jsonb_array_elements(d.checks) AS c WHERE c ->> 'outcome' = 'waived' LOOP
        PERFORM 1 FROM gateway.registry_waiver w WHERE w.id = one ->> 'waiver' AND w.registry_id = r.id
            AND w.version = p_version AND w.check_name = one ->> 'name' AND w.expires_at > now()
            AND w.api_key_id <> p_key;
        IF NOT FOUND THEN
            PERFORM gateway.registry_refuse('waiver_invalid', format(
                'the waiver of %s has expired, or is of the key that would use it', one ->> 'name'));
        END IF;
    END LOOP;
END $$;

-- Raises unless this request asks for just this, and the key that approves it is another than the one that asked.
CREATE FUNCTION gateway.registry_approve(r gateway.registry, p_request text, p_action text, p_version integer,
    p_share integer, p_decision text, p_settings jsonb, p_key text) RETURNS gateway.registry_request
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE q gateway.registry_request;
BEGIN
    SELECT * INTO q FROM gateway.registry_request WHERE id = p_request AND registry_id = r.id AND action = p_action
        AND version IS NOT DISTINCT FROM p_version AND share IS NOT DISTINCT FROM p_share
        AND decision_id IS NOT DISTINCT FROM p_decision AND settings IS NOT DISTINCT FROM p_settings;
    IF NOT FOUND THEN
        PERFORM gateway.registry_refuse('approval_required', 'a second key has to approve this');
    ELSIF q.expires_at <= now() THEN
        PERFORM gateway.registry_refuse('request_expired', format('request %s has expired', q.id));
    ELSIF q.api_key_id IS NULL OR p_key IS NULL OR q.api_key_id = p_key THEN
        PERFORM gateway.registry_refuse('own_request', 'whoever asks does not approve; another key has to');
    END IF;
    INSERT INTO gateway.registry_answer (request_id, tenant_id, approved, api_key_id)
        VALUES (q.id, q.tenant_id, true, p_key) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM gateway.registry_refuse('request_answered', format('request %s was answered before', q.id));
    END IF;
    RETURN q;
END $$;

-- Says no to what was asked for. Whoever asked may take it back so.
CREATE FUNCTION gateway.registry_reject(p_registry text, p_request text, p_reason text, p_key text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE r gateway.registry;
BEGIN
    r := gateway.registry_locked(p_registry);
    PERFORM 1 FROM gateway.registry_request WHERE id = p_request AND registry_id = r.id;
    IF NOT FOUND THEN
        PERFORM gateway.registry_refuse('not_found', 'there is no such request');
    END IF;
    INSERT INTO gateway.registry_answer (request_id, tenant_id, approved, reason, api_key_id)
        VALUES (p_request, r.tenant_id, false, p_reason, p_key) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM gateway.registry_refuse('request_answered', format('request %s was answered before', p_request));
    END IF;
END $$;

-- The one way that a version's stage, and who answers, changes. Returns the event.
CREATE FUNCTION gateway.registry_move(p_registry text, p_action text, p_version integer, p_share integer,
    p_decision text, p_request text, p_settings jsonb, p_key text, p_reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    r gateway.registry;
    h gateway.registry_event;
    v gateway.registry_version;
    b gateway.registry_event;
    q gateway.registry_request;
    e gateway.registry_event;
    target text;
    made bigint;
BEGIN
    r := gateway.registry_locked(p_registry);
    SELECT * INTO h FROM gateway.registry_event WHERE id = r.head_id;
    e := h;
    e.share := COALESCE(h.share, 0);
    e.data := '{}';
    e.from_stage := NULL;
    e.to_stage := NULL;
    IF p_action IN ('stage', 'archive', 'promote', 'canary') THEN
        SELECT * INTO v FROM gateway.registry_version WHERE registry_id = r.id AND version = p_version;
        target := gateway.registry_legal(p_action, v.stage);
        IF target IS NULL THEN
            PERFORM gateway.registry_refuse('illegal_transition',
                format('version %s is %s', p_version, COALESCE(v.stage, 'not there')));
        END IF;
        e.from_stage := v.stage;
        e.to_stage := target;
    END IF;
    IF r.approval = 'required' AND p_action IN ('promote', 'canary', 'settings') THEN
        q := gateway.registry_approve(r, p_request, p_action, p_version, p_share, p_decision, p_settings, p_key);
    END IF;
    IF p_action IN ('promote', 'canary') THEN
        PERFORM gateway.registry_authorise(r, p_version, h.production, p_decision,
            CASE WHEN q.id IS NULL THEN p_key ELSE q.api_key_id END);
    END IF;

    IF p_action = 'archive' AND h.canary = p_version THEN
        PERFORM gateway.registry_refuse('illegal_transition', 'it gets a share of the callers; end that first');
    ELSIF p_action = 'promote' THEN
        UPDATE gateway.registry_version SET stage = gateway.registry_legal('retire', stage)
            WHERE registry_id = r.id AND version = h.production;
        e.data := jsonb_strip_nulls(jsonb_build_object('from_version', h.production));
        e.back_id := CASE WHEN h.production IS NULL THEN NULL ELSE h.id END;
        e.production := p_version;
        e.canary := NULL;
        e.share := 0;
    ELSIF p_action = 'canary' THEN
        IF h.production IS NULL THEN
            PERFORM gateway.registry_refuse('illegal_transition', 'there is nothing in production to share with');
        END IF;
        e.canary := p_version;
        e.share := p_share;
    ELSIF p_action = 'end_canary' THEN
        IF h.canary IS NULL OR h.canary <> COALESCE(p_version, h.canary) THEN
            PERFORM gateway.registry_refuse('illegal_transition', 'no such version gets a share of the callers');
        END IF;
        p_version := h.canary;
        e.canary := NULL;
        e.share := 0;
    ELSIF p_action = 'rollback' THEN
        SELECT * INTO b FROM gateway.registry_event WHERE id = h.back_id AND registry_id = r.id;
        IF NOT FOUND THEN
            PERFORM gateway.registry_refuse('nothing_before', 'no other version was in production before');
        ELSIF p_version IS DISTINCT FROM h.production THEN
            PERFORM gateway.registry_refuse('conflict', format(
                'version %s is in production, and not %s', h.production, p_version));
        END IF;
        SELECT * INTO v FROM gateway.registry_version WHERE registry_id = r.id AND version = b.production;
        target := gateway.registry_legal('restore', v.stage);
        IF target IS NULL THEN
            PERFORM gateway.registry_refuse('illegal_transition', format('version %s is %s', v.version, v.stage));
        END IF;
        UPDATE gateway.registry_version SET stage = gateway.registry_legal('retire', stage)
            WHERE registry_id = r.id AND version = h.production;
        e.data := jsonb_build_object('from_version', h.production);
        e.from_stage := v.stage;
        e.to_stage := target;
        p_version := b.production;
        p_decision := b.decision_id;
        e.back_id := b.back_id;
        e.production := b.production;
        e.canary := NULL;
        e.share := 0;
    ELSIF p_action = 'settings' THEN
        e.data := jsonb_build_object('before', jsonb_build_object('gates', r.gates, 'approval', r.approval),
                                     'after', p_settings);
        UPDATE gateway.registry SET gates = p_settings -> 'gates', approval = p_settings ->> 'approval'
            WHERE id = r.id;
    ELSIF p_action NOT IN ('stage', 'archive') THEN
        PERFORM gateway.registry_refuse('illegal_transition', format('there is no move %s', p_action));
    END IF;
    IF target IS NOT NULL THEN
        UPDATE gateway.registry_version SET stage = target WHERE registry_id = r.id AND version = p_version;
    END IF;
    INSERT INTO gateway.registry_event (tenant_id, registry_id, action, version, from_stage, to_stage, production,
            canary, share, back_id, decision_id, request_id, data, reason, api_key_id, approved_by)
        VALUES (r.tenant_id, r.id, p_action, p_version, e.from_stage, e.to_stage, e.production, e.canary, e.share,
            e.back_id, p_decision, q.id, e.data, p_reason, CASE WHEN q.id IS NULL THEN p_key ELSE q.api_key_id END,
            CASE WHEN q.id IS NULL THEN NULL ELSE p_key END) RETURNING id INTO made;
    UPDATE gateway.registry SET head_id = made WHERE id = r.id;
    RETURN made;
END $$;

-- The steps of those are no doors of their own.
REVOKE EXECUTE ON FUNCTION gateway.registry_locked(text), gateway.registry_authorise(gateway.registry, integer,
    integer, text, text), gateway.registry_approve(gateway.registry, text, text, integer, integer, text, jsonb, text)
    FROM PUBLIC;

-- Which version of a registered model an answer came of.
CREATE INDEX usage_registry ON gateway.usage (tenant_id, (metadata ->> 'registry'), created_at)
    WHERE metadata ? 'registry';
