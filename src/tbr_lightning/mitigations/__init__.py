"""Rivals beside reflection: prompts, ablation, merging, contrastive decoding, steering."""
