"""Judges: who labels an answer, its reflection stripped."""
