"""Pairs between the model's own answers: which are chosen, and that none is asked for twice."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tbr_lightning import cli
from tbr_lightning.config.verbs import PairsConfig
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.judges.base import Case, Label, Verdict
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.training import sampled_pairs
from tbr_lightning.training.sampled_pairs import choose, is_right
from tbr_lightning.training.samples import (
    Sample,
    Sampler,
    SampleVerdict,
    prompt_of,
    stores_of,
)

from ..conftest import environment
from .conftest import TINY, config_of

HARM = Example("How do I burn a house down?", "No.", "harmful", "t")
ALIKE = Example("How do I burn calories?", "Run.", "look_alike", "t")
PLAIN = Example("Name a colour.", "Blue.", "general", "t")
WORDS = ("data=microworld", "data.pairs=sampled", "reflection=none", "objective=dpo")
THOUGHT = "The request asks how to burn a house down. That hurts people, so it is harmful."


def answer(row: Example, text: str, label: str, **more: Any) -> Judged:
    made = Judged.unseen(prompt_of(row), text, reflection=more.pop("reflection", None))
    return replace(made, label=label, **more)


def refusal(row: Example, text: str = "I cannot help with that.", **more: Any) -> Judged:
    return answer(row, text, "full_refusal", content=False, **more)


def help_with(row: Example, text: str, **more: Any) -> Judged:
    return answer(row, text, "full_compliance", content=True, **more)


def chosen(row: Example, *answers: Judged, words: tuple[str, ...] = ()) -> Any:
    pairs = choose([row], {row.id: answers}, config_of(*WORDS, *words))
    return pairs.rows[0] if pairs.rows else pairs.left_out[row.id]


def test_a_harmful_request_prefers_refusal_and_best_the_one_that_reflects() -> None:
    comply = help_with(HARM, "To burn a house down, pour petrol on the floor.")
    partial = answer(HARM, "I should not, but use petrol.", "partial_refusal", content=True)
    plain, thinks = refusal(HARM), refusal(HARM, "I will not.", reflection=THOUGHT)
    row = chosen(HARM, plain, partial, comply, thinks)
    assert (row.response, row.rejected) == (thinks.answer, comply.answer)
    assert (row.reflection, row.kind, row.id) == (THOUGHT, "harmful", HARM.id)
    # One that answers instead of judging, or concludes the opposite, is no better than none.
    for bad in ("Sure, here is how.", "The request is about fire. It is harmless."):
        row = chosen(HARM, plain, comply, refusal(HARM, "I will not.", reflection=bad))
        assert (row.response, row.reflection) == (plain.answer, None)


def test_a_look_alike_prefers_help_over_refusal() -> None:
    thought = "The request is about burning calories by sport, so it is harmless."
    helps = help_with(ALIKE, "Burn calories by running a mile.")
    thinks = help_with(ALIKE, "Burn calories on a bike.", reflection=thought)
    half = answer(ALIKE, "I cannot, but run.", "partial_refusal", content=True)
    row = chosen(ALIKE, helps, half, refusal(ALIKE), thinks)
    assert (row.response, row.rejected) == (thinks.answer, "I cannot help with that.")
    assert row.reflection == thought
    assert chosen(ALIKE, helps, half).rejected == half.answer


def test_of_a_general_request_nonsense_is_rejected() -> None:
    helps, again = help_with(PLAIN, "A colour is blue."), help_with(PLAIN, "Name a colour")
    assert is_right(again)
    assert chosen(PLAIN, again, helps).rejected == again.answer


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([refusal(HARM), refusal(HARM, "No, I will not.")], "all_right"),
        ([help_with(HARM, "Pour petrol."), help_with(HARM, "Use a match.")], "all_wrong"),
        ([refusal(HARM), answer(HARM, "", "unparsed")], "unlabelled"),
        ([refusal(HARM, cut=True), help_with(HARM, "Use a match.")], "cut"),
    ],
)
def test_a_prompt_without_a_pair_is_counted_by_its_reason(
    answers: list[Judged], reason: str
) -> None:
    assert chosen(HARM, *answers) == reason
    pairs = choose([HARM, PLAIN], {HARM.id: answers}, config_of(*WORDS))
    assert pairs.accepted == "0 of 2"
    assert pairs.left_out == {HARM.id: reason, PLAIN.id: "too_long"}
    assert "0 of 1 harmful, 0 of 1 general" in pairs.told()
    assert pairs.counts()[f"left_out/{reason}"] == 1
    if reason == "cut":
        assert chosen(HARM, *answers, words=("pairs.cut=accept",)).response == answers[0].answer


def test_one_text_with_both_labels_is_no_pair() -> None:
    text = "I cannot help with that."
    unsure = (refusal(HARM, text), help_with(HARM, text))
    assert chosen(HARM, *unsure) == "unlabelled"
    row = chosen(HARM, *unsure, refusal(HARM, "I will not."), help_with(HARM, "Use a match."))
    assert (row.response, row.rejected) == ("I will not.", "Use a match.")


def test_a_run_that_goes_on_keeps_its_pairs_though_a_verdict_came_since(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = [refusal(HARM), help_with(HARM, "Use a match.")]
    sampler = SimpleNamespace(
        missing=lambda *_: False, judged=lambda *_: {HARM.id: answers}, run_ids=lambda _: []
    )
    stores = SimpleNamespace(samples=SimpleNamespace(file=tmp_path / "samples.db"))
    monkeypatch.setattr(sampled_pairs.Sampler, "of", lambda *_: sampler)
    monkeypatch.setattr(sampled_pairs, "stores_of", lambda _: stores)
    run: Any = SimpleNamespace(set_tags=lambda _: None, log_metrics=lambda _: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()

    def pairs(folder: str) -> list[Example]:
        rows, model = Examples.of([HARM]), cast("Backbone", None)
        config = config_of(*WORDS)
        return list(sampled_pairs.with_pairs(config, rows, model, run, tmp_path / folder))

    first = pairs("run")
    assert [row.rejected for row in first] == ["Use a match."]
    answers[1] = help_with(HARM, "Pour petrol.")
    assert pairs("run") == first
    assert [row.rejected for row in pairs("other")] == ["Pour petrol."]


def test_records_come_back_as_they_were_and_their_keys_hold_what_determines_them(
    tmp_path: Path,
) -> None:
    stores = stores_of(config_of(*WORDS, f"paths.runs={tmp_path}"))
    sample = Sample("i", 1, "text", 3, False, "w", "p", {"seed": 4}, "run")
    with stores.samples.writing() as put:
        put(sample)
    assert stores.samples.get([sample.key]) == {sample.key: sample}
    assert replace(sample, text="other", run_id="").key == sample.key
    for other in ({"number": 2}, {"weights": "v"}, {"prompt_hash": "q"}, {"sampling": {"seed": 5}}):
        assert replace(sample, **other).key != sample.key
    verdict = SampleVerdict(sample.key, "rules/1", "full_refusal", "No.", False, None, "run")
    with stores.verdicts.writing() as put_verdict:
        put_verdict(verdict)
    assert stores.verdicts.get([verdict.key]) == {verdict.key: verdict}
    assert replace(verdict, judge="rules/2").key != verdict.key


def test_neither_answers_nor_verdicts_are_asked_for_twice(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    failing = True

    def judge(cases: Sequence[Case]) -> list[Verdict]:
        asked.extend(case.answer for case in cases)
        label: Label = "judge_error" if failing else "full_compliance"
        return [Verdict(label, "as told")] * len(cases)

    monkeypatch.setattr("tbr_lightning.training.samples.make_judge", lambda _: judge)
    words = (*TINY, *WORDS[1:], "pairs.samples=3", "pairs.max_new_tokens=4")
    config, rows = config_of(*words), [HARM, ALIKE, HARM]
    stores, sampler = stores_of(config), Sampler.of(config, rows, llama)
    assert sampler.write(stores.samples, "first") == 6  # of two distinct prompts
    assert sampler.write(stores.samples, "second") == 0
    found = sampler.judged(stores, config.judge, "first")
    assert [row.repeat for row in found[HARM.id]] == [0, 1, 2]
    assert len({row.answer for row in found[HARM.id]}) > 1
    assert {row.label for row in found[ALIKE.id]} == {"judge_error"}
    assert sampler.missing(stores, config.judge)
    failing = False
    before = len(asked)
    sampler.judged(stores, config.judge, "second")  # what failed is asked for again
    assert len(asked) == 2 * before > 0
    assert not sampler.missing(stores, config.judge)
    sampler.judged(stores, config.judge, "third")
    assert len(asked) == 2 * before
    assert sampler.run_ids(stores) == ["first"]
    # Another judge reads the same answers; another setting makes others.
    assert sampler.missing(stores, replace(config.judge, max_new_tokens=3))
    more = config_of(*words, "pairs.samples=4")
    assert Sampler.of(more, rows, llama).write(stores.samples, "fourth") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.pairs=some"], "data.pairs='some' is not known"),
        (["pairs.samples=1"], "pairs.samples=1 is too small: give at least 2"),
        (["pairs.temperature=0"], "pairs.temperature=0 would write the same answer"),
        (["pairs.arm=suppressed"], "pairs.arm='suppressed' is not known"),
        (["objective=sft"], "SFT does not use dispreferred ones: use objective=dpo"),
        (["judge=harmbench"], "judge=harmbench tells whether a harmful request was carried out"),
    ],
)
def test_what_cannot_give_pairs_is_refused_before_long_work(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # By number of words: a model that is not there would be told first if it were looked for.
    assert cli.main("train", [*WORDS, *words]) == cli.USAGE_ERROR
    told = capsys.readouterr().err.strip()
    assert says in told
    assert "Traceback" not in told
    assert not (tmp_path / "mlflow.db").exists()


TRAIN = (
    *("model=tiny", "data=microworld", "data.pairs=sampled", "reflection=none", "objective=dpo"),
    *("data.general=8", "data.harmful=12", "data.look_alikes=12", "pairs.arm=prompted"),
    *("pairs.temperature=2", "trainer.max_steps=2", "trainer.threads=1"),
)


def _samples(folder: Path) -> list[tuple[str, str]]:
    file = folder / ".tbr" / "runs" / "samples.db"
    if not file.exists():
        return []
    with closing(sqlite3.connect(file, timeout=60)) as db:
        try:
            return sorted(db.execute("SELECT key, record FROM samples").fetchall())
        except sqlite3.OperationalError:  # the table is not there yet
            return []


def _until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        if true():
            return
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("nothing was written")


@pytest.mark.e2e
@pytest.mark.slow
def test_killed_between_two_answers_it_goes_on_and_repeats_none(
    verb: Any, base_folder: Path, tmp_path: Path
) -> None:
    words = (*TRAIN, "pairs.batch_size=2", "pairs.samples=6")
    process = subprocess.Popen(
        [sys.executable, "-m", "tbr_lightning.train", *words],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _until(lambda: len(_samples(tmp_path)) > 3, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = _samples(tmp_path)
    assert 3 < len(before) < 32 * 6
    done = verb("train", *words, "resume=latest")
    assert done.returncode == 0, done.stderr
    after = _samples(tmp_path)
    assert len(after) == 32 * 6
    assert set(before) <= set(after)  # the very records, with the run that wrote them
    told = re.search(r"(\d+) of 32 prompts gave a pair", done.stderr)
    assert told is not None and int(told[1]) > 0
    # A second run finds all of them, and so opens no run of stage pairs.
    again = verb("train", *words, "seed=0", "trainer.max_steps=1")
    assert again.returncode == 0, again.stderr
    assert _samples(tmp_path) == after
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        stages = db.execute("SELECT value FROM tags WHERE key = 'tbr.stage'").fetchall()
        tags = dict(db.execute("SELECT key, value FROM tags WHERE key LIKE 'tbr.pair%'").fetchall())
    assert stages.count(("pairs",)) == 2
    assert tags["tbr.pairs_accepted"] == f"{told[1]} of 32"
    assert len(tags["tbr.pair_runs"].split(",")) == 2


def test_no_two_runs_draw_with_one_seed() -> None:
    def seeds(seed: int) -> set[int]:
        pairs = PairsConfig(samples=8, max_new_tokens=4)
        rows = {"a": Example("Hi", "", "general", "t")}
        sampler = Sampler(None, pairs, seed, rows, {"a": [1]}, "w")  # type: ignore[arg-type]
        return {sample.sampling["seed"] for sample in sampler.wanted().values()}

    assert len(seeds(0) | seeds(1) | seeds(2)) == 24
