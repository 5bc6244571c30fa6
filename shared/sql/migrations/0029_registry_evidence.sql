-- What lineage, deletions and gates ask of eval runs, decisions and promotions, from both of their ends.
CREATE INDEX job_eval_items ON core.job (tenant_id, (payload #>> '{items,id}')) WHERE kind = 'eval.run';
CREATE INDEX job_eval_model ON core.job (tenant_id, (payload #>> '{data_source,model}')) WHERE kind = 'eval.run';
CREATE INDEX job_eval_judges ON core.job USING gin ((payload -> 'criteria') jsonb_path_ops) WHERE kind = 'eval.run';
CREATE INDEX registry_decision_runs ON gateway.registry_decision USING gin ((record -> 'runs') jsonb_path_ops);
CREATE INDEX registry_event_decision ON gateway.registry_event (decision_id) WHERE decision_id IS NOT NULL;

-- A decision that passes opens production. What was found is told by whoever writes it, in a tenant's name; the
-- functions below look for themselves at what they cheaply can, and let nothing stand that is laxer than what they
-- see. The intervals, which are wider than the means seen here, are the gateway's.

-- Whether the checks have one of this name, and how it came out.
CREATE FUNCTION gateway.registry_outcome(p_checks jsonb, p_name text) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
DECLARE found text;
BEGIN
    SELECT one ->> 'outcome' INTO found FROM jsonb_array_elements(p_checks) AS one WHERE one ->> 'name' = p_name;
    IF found IS NULL THEN
        PERFORM gateway.registry_refuse('decision_unfounded', format('the check %s is missing', p_name));
    END IF;
    RETURN found;
END $$;

-- Raises where a check that is not waived says more than `p_holds` does; NULL is as good as false.
CREATE FUNCTION gateway.registry_hold(p_checks jsonb, p_name text, p_holds boolean) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
BEGIN
    IF gateway.registry_outcome(p_checks, p_name) <> 'waived' AND p_holds IS NOT TRUE THEN
        PERFORM gateway.registry_refuse('decision_unfounded', format('the check %s does not hold', p_name));
    END IF;
END $$;

-- The run that the decision names for a role: of the gate's eval, of one of these models, succeeded, and with as many
-- items as stated. It stays until the transaction ends.
CREATE FUNCTION gateway.registry_evidence(d gateway.registry_decision, p_role text, p_models text[]) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    told jsonb := d.record #> ARRAY['runs', p_role];
    found text;
BEGIN
    SELECT e.id INTO found FROM training.eval_run e JOIN core.job j ON j.id = e.id
        WHERE e.id = told ->> 'id' AND e.tenant_id = d.tenant_id AND e.eval_id = d.gates ->> 'eval_id'
            AND e.deleted_at IS NULL AND j.state = 'succeeded' AND e.model = ANY (p_models) FOR SHARE OF e;
    IF found IS NULL OR (SELECT count(*) FROM training.eval_item WHERE run_id = found)::text
            IS DISTINCT FROM told ->> 'items' THEN
        PERFORM gateway.registry_refuse('decision_unfounded', format(
            'there is no run %s of %s that has succeeded with %s, and %s items', COALESCE(told ->> 'id', p_role),
            d.gates ->> 'eval_id', p_models[1], COALESCE(told ->> 'items', 'no')));
    END IF;
    RETURN found;
END $$;

-- The items that both runs have, in turn where one stands twice: by how much the second scores better, and its slices.
CREATE FUNCTION gateway.registry_pairs(p_before text, p_after text) RETURNS TABLE (difference float8, slices jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    WITH numbered AS (
        SELECT run_id, item_key, score, slices,
            row_number() OVER (PARTITION BY run_id, item_key ORDER BY item_no) AS nth
        FROM training.eval_item WHERE run_id IN (p_before, p_after))
    SELECT b.score - a.score, b.slices FROM numbered a JOIN numbered b USING (item_key, nth)
    WHERE a.run_id = p_before AND b.run_id = p_after
$$;

-- What is known of the model itself: parity, its own data, leakage, erasures.
CREATE FUNCTION gateway.registry_facts_hold(d gateway.registry_decision, m training.model) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE data data_governance.version;
BEGIN
    SELECT * INTO data FROM data_governance.version WHERE tenant_id = d.tenant_id AND id = m.dataset_version
        ORDER BY created_at DESC LIMIT 1;
    PERFORM gateway.registry_hold(d.checks, 'parity', d.gates ->> 'parity' = 'off'
        OR m.info #>> '{parity,passed}' = 'true' OR (m.dataset_version IS NULL AND NOT m.info ? 'lineage'));
    PERFORM gateway.registry_hold(d.checks, 'data_gate', d.gates ->> 'data_gate' = 'off'
        OR COALESCE(data.gate_passed, d.gates ->> 'data_gate' = 'where_known'));
    PERFORM gateway.registry_hold(d.checks, 'leakage', d.gates ->> 'leakage' = 'off'
        OR COALESCE(data.report #>> '{leakage,questions_in_both_splits}', '0') = '0');
    PERFORM gateway.registry_hold(d.checks, 'erasure', NOT EXISTS (
        SELECT 1 FROM data_governance.needs_rebuild n WHERE n.tenant_id = d.tenant_id
            AND (n.kind, n.id) IN (('model', m.id), ('version', m.dataset_version))));
END $$;

-- What the items say: how many there are, and on which side of each limit their mean lies.
CREATE FUNCTION gateway.registry_figures_hold(d gateway.registry_decision, p_name text, m training.model)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    -- Two sums of the same numbers may differ in their last digits.
    slack CONSTANT float8 := 1e-9;
    g CONSTANT jsonb := d.gates;
    least CONSTANT integer := (d.gates ->> 'min_items')::integer;
    candidate text := gateway.registry_evidence(d, 'candidate',
        ARRAY[m.id, format('registry:%s@%s', p_name, d.version)]);
    champion text;
    baseline text;
    mean float8;
    own integer;
    n integer;
    one record;
BEGIN
    PERFORM gateway.registry_outcome(d.checks, 'evaluation');
    SELECT count(*), avg(score) INTO own, mean FROM training.eval_item WHERE run_id = candidate;
    IF g ->> 'baseline_score' IS NOT NULL THEN
        PERFORM gateway.registry_hold(d.checks, 'baseline',
            own >= least AND mean > (g ->> 'baseline_score')::float8 - slack);
    END IF;
    IF g ->> 'baseline_model' IS NOT NULL THEN
        baseline := gateway.registry_evidence(d, 'baseline', ARRAY[g ->> 'baseline_model']);
        SELECT count(*), avg(difference) INTO n, mean FROM gateway.registry_pairs(baseline, candidate);
        PERFORM gateway.registry_hold(d.checks, 'baseline_model', n >= least AND mean > -slack);
    END IF;
    IF d.against IS NULL THEN
        PERFORM gateway.registry_hold(d.checks, 'items', own >= least);
        PERFORM gateway.registry_outcome(d.checks, 'quality');
        RETURN;
    END IF;
    SELECT gateway.registry_evidence(d, 'champion', ARRAY[v.model_id, format('registry:%s@%s', p_name, v.version)])
        INTO champion FROM gateway.registry_version v WHERE v.registry_id = d.registry_id AND v.version = d.against;
    SELECT count(*), avg(difference) INTO n, mean FROM gateway.registry_pairs(champion, candidate);
    PERFORM gateway.registry_hold(d.checks, 'same_items', n = own
        AND n = (SELECT count(*) FROM training.eval_item WHERE run_id = champion));
    PERFORM gateway.registry_hold(d.checks, 'items', n >= least);
    PERFORM gateway.registry_hold(d.checks, 'quality', mean > -(g ->> 'margin')::float8 - slack);
    IF g ->> 'require_improvement' = 'true' THEN
        PERFORM gateway.registry_hold(d.checks, 'improvement', mean > -slack);
    END IF;
    IF d.checks @> '[{"name": "slice:*", "outcome": "waived"}]' THEN
        RETURN;
    END IF;
    FOR one IN SELECT 'slice:' || s.key AS name, left(format('slice:%s=%s', s.key, s.value), 200) AS title,
            count(*) AS n, avg(p.difference) AS mean
        FROM gateway.registry_pairs(champion, candidate) p CROSS JOIN LATERAL jsonb_each_text(p.slices) AS s
        WHERE jsonb_typeof(g -> 'slices') IS DISTINCT FROM 'array' OR g -> 'slices' ? s.key GROUP BY s.key, s.value
    LOOP
        PERFORM gateway.registry_hold(d.checks, one.title, CASE WHEN one.n < (g ->> 'min_slice_items')::integer
            THEN g ->> 'small_slices' = 'tell' ELSE one.mean > -(g ->> 'slice_margin')::float8 - slack END);
    END LOOP;
    IF jsonb_typeof(g -> 'slices') = 'array' THEN
        FOR one IN SELECT named FROM jsonb_array_elements_text(g -> 'slices') AS named WHERE NOT EXISTS (
            SELECT 1 FROM gateway.registry_pairs(champion, candidate) p WHERE p.slices ? named)
        LOOP
            PERFORM gateway.registry_hold(d.checks, 'slice:' || one.named, false);
        END LOOP;
    END IF;
END $$;

CREATE FUNCTION gateway.registry_decision_written() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
DECLARE
    name text;
    m training.model;
BEGIN
    NEW.created_at := now();
    NEW.expires_at := LEAST(NEW.expires_at, now() + make_interval(hours => (NEW.gates ->> 'valid_hours')::integer));
    -- One that does not pass opens nothing.
    IF gateway.registry_verdict(NEW.checks) <> 'passed' THEN
        RETURN NEW;
    END IF;
    SELECT r.name INTO name FROM gateway.registry r WHERE r.id = NEW.registry_id;
    SELECT t.* INTO m FROM training.model t JOIN gateway.registry_version v
        ON v.tenant_id = t.tenant_id AND v.model_id = t.id
        WHERE v.registry_id = NEW.registry_id AND v.version = NEW.version AND v.tenant_id = NEW.tenant_id;
    -- As shared.contracts.model_registry has them.
    IF EXISTS (SELECT 1 FROM jsonb_array_elements(NEW.checks) AS one WHERE one ->> 'outcome' = 'waived'
            AND NOT (one ->> 'name' = ANY (ARRAY['items', 'quality', 'improvement', 'baseline', 'baseline_model',
                'data_gate']) OR starts_with(one ->> 'name', 'slice:'))) THEN
        PERFORM gateway.registry_refuse('waiver_invalid', 'a check is waived that cannot be');
    END IF;
    PERFORM gateway.registry_facts_hold(NEW, m);
    IF NEW.gates ->> 'eval_id' IS NULL THEN
        PERFORM gateway.registry_outcome(NEW.checks, 'evaluation');
    ELSE
        PERFORM gateway.registry_figures_hold(NEW, name, m);
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER decision_written BEFORE INSERT ON gateway.registry_decision
    FOR EACH ROW EXECUTE FUNCTION gateway.registry_decision_written();
