"""From a registry alias to a served endpoint: an engine's process behind a thin proxy of ours."""
