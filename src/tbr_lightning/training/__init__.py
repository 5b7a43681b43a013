"""Fine-tuning: objective, module, strategies, checkpoints, ranks, what is logged."""
