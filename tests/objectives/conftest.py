"""Fixtures that the tests of objectives share with those of training."""

from __future__ import annotations

from ..training.conftest import llama

__all__ = ["llama"]
