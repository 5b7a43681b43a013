"""The paper's ablation as a study: table and figures (optional)."""
