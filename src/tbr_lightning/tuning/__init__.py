"""Optuna studies over Hydra overrides."""
