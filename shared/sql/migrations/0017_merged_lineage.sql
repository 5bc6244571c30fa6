-- The further files of a version that was built from several lead on to it, too.
CREATE INDEX job_others ON core.job USING gin ((payload -> 'others') jsonb_path_ops)
    WHERE kind = 'data.build_version' AND payload -> 'others' <> '[]';
