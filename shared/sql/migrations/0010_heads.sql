-- A head on an encoder, a base or an LSTM: it answers with labels (classifier) or with one score (ranker).
ALTER TABLE training.model DROP CONSTRAINT model_kind_check;
ALTER TABLE training.model ADD CONSTRAINT model_kind_check
    CHECK (kind IN ('base', 'adapter', 'encoder', 'upstream', 'classifier', 'ranker'));
