-- How a version differs from the version of its dataset before it; NULL of a first one. It stands beside the version,
-- whose artifact depends on its own rows alone.
ALTER TABLE data_governance.version ADD COLUMN drift jsonb;
