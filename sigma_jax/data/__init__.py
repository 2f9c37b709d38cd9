"""Videos on disk and batches in memory; knows nothing of models."""
