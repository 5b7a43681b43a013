"""Baseline methods beside reflection: prompts, ablation, merging, contrast, steering."""
