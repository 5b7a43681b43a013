"""Typed schemas, and composition of the YAML under ``conf/`` into them."""
