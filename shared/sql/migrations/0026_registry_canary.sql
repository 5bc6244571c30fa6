-- When a canary is to lose its share by itself, as shared.contracts.model_registry has it. It changes as the gates do.
ALTER TABLE gateway.registry ADD COLUMN canary_rule jsonb;
GRANT INSERT (canary_rule) ON gateway.registry TO heliu_app;

-- As before; a change of settings says what the canary's rule is too, and the end of a canary why it was ended.
CREATE OR REPLACE FUNCTION gateway.registry_move(p_registry text, p_action text, p_version integer, p_share integer,
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
        e.data := COALESCE(p_settings, '{}');
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
        e.data := jsonb_build_object('before', jsonb_build_object('gates', r.gates, 'approval', r.approval,
            'canary_rule', r.canary_rule), 'after', p_settings);
        -- What waited for a second key from before there were such rules says nothing of them.
        UPDATE gateway.registry SET gates = p_settings -> 'gates', approval = p_settings ->> 'approval',
            canary_rule = CASE WHEN p_settings ? 'canary_rule' THEN NULLIF(p_settings -> 'canary_rule', 'null')
                ELSE canary_rule END WHERE id = r.id;
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

-- A canary is judged by its own answers alone, of which a small share has few among those of its name.
DROP INDEX gateway.usage_registry;
CREATE INDEX usage_registry ON gateway.usage (tenant_id, (metadata ->> 'registry'), (metadata ->> 'registry_version'),
    created_at) WHERE metadata ? 'registry';
