-- An encoder is a model of its own as a base is, and answers with vectors instead of text.
ALTER TABLE training.model DROP CONSTRAINT model_kind_check;
ALTER TABLE training.model ADD CONSTRAINT model_kind_check CHECK (kind IN ('base', 'adapter', 'encoder'));
