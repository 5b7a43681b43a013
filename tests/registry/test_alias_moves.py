"""Moves over a real MLflow store: challenger, rollback, drift, what is anew, what is tampered."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import model_digest
from tbr_lightning.registry import alias_moves, aliases, commands
from tbr_lightning.registry.alias_sync import Registry, look, project, reasons, recover
from tbr_lightning.registry.audit import audit
from tbr_lightning.registry.entry import TAG, weights_of

from ..conftest import put_store
from ..support import made


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 was champion, version 2 is, version 3 was refused."""
    folder = tmp_path_factory.mktemp("made")
    put_store(folder)
    made.history(folder)
    return folder


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Registry:
    """A copy of the template in the test's own folder."""
    return made.registry(made.copied(template, tmp_path))


def actual() -> dict[str, str]:
    there = aliases.registered(made.NAME)
    assert there is not None
    return there.aliases


def outside(alias: str, version: str) -> None:
    MlflowClient().set_registered_model_alias(made.NAME, alias, version)


def test_aliases_tags_follow_the_ledger(registry: Registry) -> None:
    assert actual() == {"previous": "1", "champion": "2"}
    assert aliases.holder(made.NAME, "champion") == "2"
    version = MlflowClient().get_model_version(made.NAME, "3")
    head = registry.ledger.entries(made.NAME)[-1]
    assert version.tags["tbr.ledger"] == f"3 {head.hash}"
    assert version.tags["tbr.promoted"] == "false"
    assert version.description.startswith("refuse")  # lists show few words, and no Markdown
    assert "UTC, ledger entry 3\n" in version.description
    assert audit(registry).sound[0].endswith("entries 1 to 3, each signed by a trusted key")
    assert audit(registry).problems == ()


def test_reasons_are_a_list_that_parts_no_brackets() -> None:
    assert reasons("worse in the field") == "worse in the field"
    assert reasons("not promoted: harm rose (by 3; of 9); refusals too") == (
        "not promoted:\n\n- harm rose (by 3; of 9)\n- refusals too"
    )
    assert reasons(f"promoted: {'word ' * 999}").endswith("word …")


def test_a_challenger_is_registered_once(tmp_path: Path, registry: Registry) -> None:
    logged = made.model(tmp_path, "four")
    more = {"why": "of a study", "evidence": ["study"]}
    where = (made.tracking(tmp_path), made.paths(tmp_path))
    assert alias_moves.challenge(made.NAME, logged, *where, **more) == "4"
    assert alias_moves.challenge(made.NAME, logged, *where, **more) == "4"
    entry = registry.ledger.entries(made.NAME)[-1]
    assert (entry.seq, entry.action, entry.moves) == (4, "challenge", {"challenger": (None, "4")})
    assert entry.evidence == ["study"]
    assert entry.weights == {"4": model_digest(logged), "4/model": logged.model_id}


def test_a_second_rollback_takes_back_the_first(registry: Registry) -> None:
    first = alias_moves.rollback(registry, "worse in the field")
    assert (first.why, first.evidence) == ("worse in the field", ["r"])
    assert actual() == {"previous": "2", "champion": "1"}
    alias_moves.rollback(registry, "")
    assert actual() == {"previous": "1", "champion": "2"}
    assert audit(registry).problems == ()


def test_a_rollback_by_hand_shows_rates_and_needs_a_reason(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = made.config(tmp_path, "")
    before = len(registry.ledger.entries(made.NAME))
    with pytest.raises(UserError, match=r"reason is not set.*nothing was moved"):
        commands.rollback(config)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("champion now, v2: ")
    assert told[1].startswith("champion before, v1: ")
    assert actual() == {"previous": "1", "champion": "2"}
    assert len(registry.ledger.entries(made.NAME)) == before
    assert commands.rollback(replace(config, reason="worse in the field")) == 0
    assert actual() == {"previous": "2", "champion": "1"}
    told_of = MlflowClient().get_registered_model(made.NAME).description
    assert told_of.startswith("**Champion: version 1.**") and "worse in the field" in told_of


def test_without_a_previous_champion_there_is_no_rollback(store: Path) -> None:
    registry = made.registry(store)
    with pytest.raises(UserError, match="not registered"):
        alias_moves.rollback(registry, "")
    made.crown(registry, made.model(store, "one"))
    with pytest.raises(UserError, match="no previous champion to go back to"):
        alias_moves.rollback(registry, "")


@pytest.mark.parametrize("gone", [True, False])
def test_a_rollback_to_other_or_absent_weights_is_refused(registry: Registry, gone: bool) -> None:
    file = made.weights_file(aliases.model_of(made.NAME, "1"))
    if gone:
        shutil.rmtree(file.parents[1])
    else:
        file.write_text("tampered")
    with pytest.raises(UserError, match="are gone" if gone else "not those that were registered"):
        alias_moves.rollback(registry, "")
    assert actual()["champion"] == "2"
    assert len(registry.ledger.entries(made.NAME)) == 3
    (problem,) = audit(registry).problems
    assert problem.startswith("previous: ")


def test_tampered_weights_cannot_be_promoted(tmp_path: Path, registry: Registry) -> None:
    logged = aliases.model_of(made.NAME, "3")
    made.weights_file(logged).write_text("tampered")
    with pytest.raises(UserError, match="version 3 are not those"):
        alias_moves.check_weights(recover(registry), "3", model_digest(logged))


def test_drift_stops_moves_and_is_put_back(registry: Registry) -> None:
    outside("champion", "3")
    told = (
        "the alias champion points at version 3, the ledger records version 2: "
        "it was moved outside this program"
    )
    assert recover(registry).drift == (told,)
    assert told in audit(registry).problems
    with pytest.raises(UserError, match="promote repair"):
        alias_moves.rollback(registry, "")
    entry = alias_moves.repair(registry, "nobody asked for it")
    assert entry is not None and told in entry.why and "nobody asked" in entry.why
    assert actual()["champion"] == "2"
    assert alias_moves.repair(registry, "") is None


@pytest.mark.parametrize("force", [False, True])
def test_what_somebody_moved_meanwhile_is_overwritten_by_force_alone(
    registry: Registry, force: bool
) -> None:
    standing = recover(registry)
    # Decided and not carried out yet, when somebody points the alias at a third version.
    draft = alias_moves.decision(standing, "promote", "3", why="better", evidence=["r"], weights={})
    registry.ledger.append(made.NAME, draft, standing.head)
    outside("champion", "1")
    project(registry, force=force)
    assert actual()["champion"] == ("3" if force else "1")
    assert len(look(registry).drift) == (0 if force else 1)


def test_a_hand_made_way_back_is_drift_too(registry: Registry) -> None:
    outside("champion", "1")  # where an interrupted promotion would have left it
    assert len(recover(registry).drift) == 1


def test_drift_is_taken_over_with_a_reason(registry: Registry) -> None:
    outside("champion", "3")
    MlflowClient().delete_registered_model_alias(made.NAME, "previous")
    entry = alias_moves.accept(registry, "outage: moved by hand")
    assert entry is not None
    assert entry.moves == {"champion": ("2", "3"), "previous": ("1", None)}
    assert actual() == {"champion": "3"}
    assert audit(registry).problems == ()


def test_taking_over_one_alias_leaves_the_digests_of_the_others(registry: Registry) -> None:
    made.weights_file(aliases.model_of(made.NAME, "1")).write_text("tampered")
    outside("champion", "3")
    entry = alias_moves.accept(registry, "by hand")
    assert entry is not None and set(entry.weights) == {"3", "3/model"}
    assert audit(registry).problems[0].startswith("previous: the files of version 1 were changed")


def test_a_version_that_was_deleted_is_drift(registry: Registry) -> None:
    MlflowClient().delete_model_version(made.NAME, "2")
    (told,) = recover(registry).drift
    assert "points at none, the ledger records version 2" in told
    assert alias_moves.accept(registry, "deleted for good") is not None
    assert recover(registry).drift == ()
    assert actual() == {"previous": "1"}


def test_other_aliases_are_left_alone(registry: Registry) -> None:
    outside("canary", "1")
    alias_moves.rollback(registry, "")
    assert aliases.holder(made.NAME, "canary") == "1"


def test_aliases_from_before_the_ledger_are_taken_over_with_a_reason(store: Path) -> None:
    registry = made.registry(store)
    version = alias_moves.register(registry, made.model(store, "old"))
    outside("champion", version)
    with pytest.raises(UserError, match=r"champion at version 1.*no entry: take it over"):
        recover(registry).refuse_drift()
    with pytest.raises(UserError, match="promote accept"):
        alias_moves.repair(registry, "")
    alias_moves.accept(registry, "from before")
    standing = recover(registry)
    (entry,) = standing.entries
    assert (entry.action, entry.moves) == ("adopt", {"champion": (None, "1")})
    assert "1" in entry.weights
    assert audit(registry).problems == ()


def test_a_ledger_from_before_signatures_is_told_until_it_is_taken_over(
    tmp_path: Path, registry: Registry
) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("UPDATE tbr_ledger SET signature = ''")
    for standing in (look(registry), recover(registry)):
        assert standing.drift == ("entries 1 to 3 of the ledger carry no signature",)
    assert standing.drift[0] in audit(registry).problems
    with pytest.raises(UserError, match="promote accept"):
        alias_moves.rollback(registry, "")
    with pytest.raises(UserError, match="promote accept"):
        alias_moves.repair(registry, "")
    assert alias_moves.accept(registry, "our own, from version 0.1") is not None
    assert audit(registry).problems == ()
    assert "1 to 3 are not signed, entry 4 (accept" in audit(registry).sound[0]
    alias_moves.rollback(registry, "")
    assert actual()["champion"] == "1"


def _made_anew(tmp_path: Path) -> str:
    """Delete the registered model, and make another model its version 1 and champion."""
    client, other = MlflowClient(), made.model(tmp_path, "other")
    client.delete_registered_model(made.NAME)
    client.create_registered_model(made.NAME)
    client.create_model_version(made.NAME, other.uri, other.run_id, model_id=other.model_id)
    client.set_registered_model_alias(made.NAME, "champion", "1")
    return other.model_id


def test_a_registry_made_anew_is_drift_until_somebody_accepts_it(
    tmp_path: Path, registry: Registry
) -> None:
    other = _made_anew(tmp_path)
    before = registry.ledger.entries(made.NAME)
    for standing in (look(registry), recover(registry)):
        assert "made anew" in standing.drift[0]
        with pytest.raises(UserError, match="made anew"):
            standing.refuse_drift()
    assert any("made anew" in problem for problem in audit(registry).problems)
    with pytest.raises(UserError, match="moving aliases back cannot undo that"):
        alias_moves.repair(registry, "")
    assert registry.ledger.entries(made.NAME) == before
    entry = alias_moves.accept(registry, "the store was lost")
    assert entry is not None
    assert (entry.action, entry.why) == ("anew", "the store was lost")
    assert entry.weights["1/model"] == other
    assert actual() == {"champion": "1"}
    assert look(registry).drift == ()
    assert audit(registry).problems == ()


def test_another_model_under_a_number_that_was_decided_on_is_named(
    tmp_path: Path, store: Path
) -> None:
    registry = made.registry(store)
    first = made.model(store, "first")
    alias_moves.challenge(
        made.NAME, first, made.tracking(store), made.paths(store), why="made", evidence=["r"]
    )
    other = _made_anew(store)
    # As if the tag of the ledger had been written again.
    aliases.tag_model(made.NAME, TAG, registry.ledger.entries(made.NAME)[-1].mark)
    (told,) = look(registry).drift
    assert f"version 1 is models:/{other} now" in told
    assert f"models:/{first.model_id}" in told


def test_a_registry_deleted_and_not_yet_made_again_is_drift(
    tmp_path: Path, registry: Registry
) -> None:
    """A promotion makes it anew and empty; numbers of the old versions must not be met again."""
    MlflowClient().delete_registered_model(made.NAME)
    other = made.model(tmp_path, "other")
    alias_moves.register(registry, other)
    told = " ".join(recover(registry).drift)
    assert f"version 1 is models:/{other.model_id} now" in told
    assert "version 2 is not there now" in told
    entry = alias_moves.accept(registry, "deleted by mistake")
    assert entry is not None and entry.action == "anew"
    assert audit(registry).problems == ()


@pytest.mark.parametrize("at", ["1971-01-01T00:00:00.000+00:00", "2999-01-01T00:00:00.000+00:00"])
def test_what_was_decided_is_completed_whatever_the_clocks_say(
    store: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    registry, logged = made.registry(store), made.model(store, "one")
    version = alias_moves.register(registry, logged)
    weights = weights_of(version, model_digest(logged), logged.model_id)
    draft = alias_moves.decision(
        recover(registry), "promote", version, why="w", evidence=[], weights=weights
    )
    with monkeypatch.context() as patch:
        patch.setattr("tbr_lightning.registry.ledger.now", lambda: at)
        registry.ledger.append(made.NAME, draft, None)  # and killed before the aliases
    assert "not reached the aliases yet" in look(registry).drift[0]
    assert recover(registry).drift == ()
    assert actual() == {"champion": "1"}


def test_looking_writes_nothing(tmp_path: Path, registry: Registry) -> None:
    outside("champion", "1")
    before = made.contents(tmp_path)
    again = made.registry(tmp_path, write=False)
    look(again)
    audit(again)
    assert made.contents(tmp_path) == before


def test_looking_at_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        made.registry(tmp_path, write=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["reset", "deleted"])
def test_a_ledger_begun_again_verifies(tmp_path: Path, registry: Registry, how: str) -> None:
    (tmp_path / "ledger.db").unlink()
    again = made.registry(tmp_path)
    if how == "deleted":
        MlflowClient().delete_registered_model(made.NAME)
        made.crown(again, made.model(tmp_path, "new"))
    else:  # as docs/registry.md has it
        MlflowClient().delete_registered_model_tag(made.NAME, TAG)
        assert alias_moves.accept(again, "begun anew") is not None
        assert actual() == {"previous": "1", "champion": "2"}
    assert audit(again).problems == ()
    made.crown(again, made.model(tmp_path, "newer"))
    assert audit(again).problems == ()


def test_a_ledger_whose_end_was_cut_off_moves_nothing(tmp_path: Path, registry: Registry) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("DELETE FROM tbr_ledger WHERE seq = 3")
    with pytest.raises(UserError, match="ends at entry 2, but the registered model's tag"):
        recover(registry)
    assert "its end was cut off" in audit(registry).problems[0]


@pytest.mark.parametrize("left", [0, 1, 2])
def test_ledger_and_tracker_put_back_together_are_told(tmp_path: Path, left: int) -> None:
    """Signatures do not tell an old state from the newest; what was seen from here does."""
    put_store(tmp_path)
    made.history(tmp_path)  # not a copy, of which nothing was written from here
    registry = made.registry(tmp_path)
    first, second, _ = registry.ledger.entries(made.NAME)
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("DELETE FROM tbr_ledger WHERE seq > ?", [left])
    client = MlflowClient()
    if left:
        mark = (first, second)[left - 1].mark
        client.set_registered_model_tag(made.NAME, "tbr.ledger", mark)
    else:
        client.delete_registered_model_tag(made.NAME, "tbr.ledger")
    for alias in ("champion", "previous", "challenger"):
        client.delete_registered_model_alias(made.NAME, alias)
    if left == 2:
        client.set_registered_model_alias(made.NAME, "previous", "1")
    if left:
        client.set_registered_model_alias(made.NAME, "champion", str(left))
    with pytest.raises(UserError, match="it was put back to an earlier state"):
        recover(registry)
    assert f"ends at entry {left}, and entry 3" in audit_or_refusal(registry)
    # A new ledger that is meant is begun by removing what was seen of the old one.
    shutil.rmtree(made.keys(tmp_path).public.with_name("evidence.key.pub.seen"))
    assert recover(registry).entries == (first, second)[:left]


def audit_or_refusal(registry: Registry) -> str:
    """Return what ``verify`` says first."""
    try:
        return audit(registry).problems[0]
    except UserError as error:
        return str(error)


def test_a_ledger_that_was_rewritten_with_fitting_hashes_is_caught(
    tmp_path: Path, registry: Registry
) -> None:
    (tmp_path / "ledger.db").unlink()
    other = made.registry(tmp_path)
    head = None
    for number in range(3):
        draft = alias_moves.NewEntry("promote", "9", {}, f"forged {number}")
        head = other.ledger.append(made.NAME, draft, head)
    (problem, *_) = audit(other).problems
    assert "entry 3 is not the one that the registered model's tag tbr.ledger has seen" in problem
    with pytest.raises(UserError, match="nothing is moved"):
        alias_moves.rollback(other, "")


def test_a_changed_champion_is_found(registry: Registry) -> None:
    made.weights_file(aliases.model_of(made.NAME, "2")).write_text("tampered")
    (problem,) = audit(registry).problems
    assert problem.startswith("champion: the files of version 2 were changed")


def test_a_name_that_is_not_registered_is_told_with_those_that_are(registry: Registry) -> None:
    with pytest.raises(UserError, match=f"promote a model first, or give one of {made.NAME}$"):
        audit(replace(registry, name="absent"))
