"""Training: where a run starts, its batches, schedule, optimizers, metrics and end."""
