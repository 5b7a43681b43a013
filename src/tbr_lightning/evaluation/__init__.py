"""Two-sided evaluation: false refusal, harmful compliance and general accuracy."""
