-- A byte-level model can say NUL, which json keeps as it was written and jsonb refuses.
ALTER TABLE inference.batch_row ALTER COLUMN body TYPE json;
