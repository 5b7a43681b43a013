"""Everything that is written to MLflow goes through here: stores, runs, datasets, models."""
