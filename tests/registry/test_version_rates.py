"""Which evaluation a version's rates are of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tbr_lightning.registry import version_rates
from tbr_lightning.registry.entry import Entry


def entry(seq: int, action: str, evidence: Sequence[str] = (), version: str = "1") -> Entry:
    return Entry("m", seq, "", "", action, version, {}, "", list(evidence), {}, "")


def test_the_last_decision_with_evidence_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_rates, "of_run", lambda run_id: run_id)
    entries = [entry(1, "baseline", ["p", "first"]), entry(2, "promote", ["q", "second"], "2")]
    assert version_rates.rates_of("1", [*entries, entry(3, "rollback", ["p", "x"])]) == "first"
    assert version_rates.rates_of("3", entries).startswith("the ledger has no evaluation of it")


def test_a_version_of_a_registered_model_made_anew_is_not_the_one_of_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(version_rates, "of_run", lambda run_id: run_id)
    entries = [entry(1, "baseline", ["p", "of another model"]), entry(2, "anew")]
    assert version_rates.rates_of("1", entries).startswith("the ledger has no evaluation of it")
    now = [*entries, entry(3, "promote", ["q", "its own"])]
    assert version_rates.rates_of("1", now) == "its own"
