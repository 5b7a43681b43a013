"""Judges: they label answers, without seeing the reflections."""
