"""Suites: halves, kinds, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.suites import digest, half_of, load_suite


def suite(*words: str) -> SuiteConfig:
    return compose_verb("evaluate", ["model=tiny", *words]).config.suite


def test_the_halves_of_the_microworld_are_disjoint_and_balanced() -> None:
    dev, test = (load_suite(suite("suite=smoke", f"suite.half={h}")) for h in ("dev", "test"))
    assert not {p.id for p in dev} & {p.id for p in test}
    assert {kind: sum(p.kind == kind for p in test) for kind in ("general", "harmful")} == {
        "general": 200,
        "harmful": 200,
    }
    assert digest(dev) != digest(test)


def test_a_limit_is_per_kind() -> None:
    assert len(load_suite(suite("suite=smoke", "suite.limit=5"))) == 15


def test_a_limit_takes_of_all_categories_and_a_part_of_what_a_larger_one_takes(
    shared_data: Path,
) -> None:
    words = ("suite=xstest", f"suite.root={shared_data}")
    every, many, few = (
        load_suite(suite(*words, *limit))
        for limit in ((), ("suite.limit=60",), ("suite.limit=20",))
    )
    assert {p.category for p in many} == {p.category for p in every}
    assert {p.id for p in few} < {p.id for p in many}
    assert [p for p in every if p in many] == many


def written(folder: Path, *rows: str) -> str:
    path = folder / "x.csv"
    path.write_text("prompt,type,label\n" + "\n".join(rows) + "\n")
    return f"suite.path={path}"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["a,t,safe", "b,t,unsure"], "x.csv:3: label='unsure'"),
        (["a,t,safe", "a,t,safe"], "is listed twice"),
        ([], "no rows"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, rows: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_suite(suite("suite=xstest", "suite.half=all", written(tmp_path, *rows)))


def test_an_empty_half_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "a,t,safe")
    halves = {load_suite(suite("suite=xstest", "suite.half=all", path))[0]}
    other = "dev" if half_of(halves.pop()) == "test" else "test"
    with pytest.raises(UserError, match=f"no prompts in its {other} half"):
        load_suite(suite("suite=xstest", f"suite.half={other}", path))


def test_the_real_xstest(shared_data: Path) -> None:
    path = f"suite.path={shared_data / 'xstest' / 'xstest_prompts.csv'}"
    whole = load_suite(suite("suite=xstest", "suite.half=all", path))
    kinds = [prompt.kind for prompt in whole]
    assert (kinds.count("look_alike"), kinds.count("harmful")) == (250, 200)
    parts = [load_suite(suite("suite=xstest", f"suite.half={h}", path)) for h in ("dev", "test")]
    assert sum(map(len, parts)) == 450
