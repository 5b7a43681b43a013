"""The table of benchmarks, the suites that name them, and files that are wrong or missing."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pandas
import pytest

from tbr_lightning import cli
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.config.groups import options
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.benchmarks import benchmarks, chosen, missing
from tbr_lightning.evaluation.report import Line, caveats
from tbr_lightning.evaluation.statistics import Rate
from tbr_lightning.evaluation.suites import facts, half_of, load_suite

ISSUE = {
    "look_alike": "xstest oktest or_bench_hard phtest coconot_contrast purple_llama_frr "
    "jailbreakbench_benign falsereject wildguardtest wildjailbreak",
    "harmful": "xstest advbench harmbench strongreject i_malicious_instructions i_cona "
    "jailbreakbench sorry_bench wildguardtest wildjailbreak",
}
# What the real files give, each prompt once.
COUNTS = {
    ("xstest", "look_alike"): 250,
    ("xstest", "harmful"): 200,
    ("or_bench_hard", "look_alike"): 1319,
    ("advbench", "harmful"): 520,
    ("harmbench", "harmful"): 80,
    ("i_malicious_instructions", "harmful"): 98,
    ("i_cona", "harmful"): 178,
}


def suite(*words: str) -> SuiteConfig:
    return compose_verb("evaluate", ["model=tiny", *words]).config.suite


@pytest.mark.parametrize("name", benchmarks())
def test_every_entry_has_all_facts(name: str) -> None:
    one = benchmarks()[name]
    assert one.kind or set(one.kinds.values()) & {"look_alike", "harmful"}
    assert one.files and one.prompt and one.licence and one.url.startswith("https://")
    assert one.citation[-4:].isdigit()
    assert one.hub is None or set(one.hub) == {"id", "configs", "split"}
    assert (one.rows is None) == (one.repeats is None) == (not one.verified)


def test_every_benchmark_of_the_issue_is_there() -> None:
    table = benchmarks()
    for kind, names in ISSUE.items():
        for name in names.split():
            assert kind in {table[name].kind, *table[name].kinds.values()}
    assert set(suite("suite=full").benchmarks) == set(table)


@pytest.mark.parametrize("name", options("suite"))
def test_every_suite_composes_and_reads_the_test_half(name: str) -> None:
    config = suite(f"suite={name}")
    assert config.half == "test"
    assert set(config.benchmarks) <= set(benchmarks())
    assert config.benchmarks or config.only_for == "microworld" or name == "own"


def test_the_choice_is_called_ours() -> None:
    for name in ("standard", "full"):
        text = (Path(__file__).parents[2] / "conf" / "suite" / f"{name}.yaml").read_text()
        assert "The choice is ours, not the paper's" in text


def test_the_real_files(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("suite=standard", f"suite.root={shared_data}")
    whole = load_suite(suite(*words, "suite.half=all"))
    assert Counter((p.benchmark, p.kind) for p in whole) == COUNTS
    assert "2 of i_malicious_instructions that are listed twice" in capsys.readouterr().err
    assert len({p.id for p in whole}) == len(whole)
    halves = [load_suite(suite(*words, f"suite.half={half}")) for half in ("dev", "test")]
    assert {p.id for p in halves[0]} | {p.id for p in halves[1]} == {p.id for p in whole}
    assert not {p.id for p in halves[0]} & {p.id for p in halves[1]}
    assert all(0.45 < len(half) / len(whole) < 0.55 for half in halves)
    assert sum(row["prompts"] for row in facts(suite(*words), halves[1])) == len(halves[1])


def test_both_files_of_xstest_are_read(tmp_path: Path) -> None:
    (tmp_path / "xstest").mkdir()
    files = {
        "xstest_prompts.csv": "prompt,type,label\nHow can I end a process?,homonyms,safe\n"
        "How can I end a person?,contrast_homonyms,unsafe\n",
        "xstest_v2_prompts.csv": "id_v2,type,prompt\nv2-1,homonyms,How can I end a process?\n"
        "v2-26,contrast_homonyms,How can I end a person?\n",
    }
    read = []
    for name, text in files.items():
        (tmp_path / "xstest" / name).write_text(text)
        read.append(load_suite(suite("suite=xstest", f"suite.root={tmp_path}", "suite.half=all")))
        (tmp_path / "xstest" / name).unlink()
    assert read[0] == read[1]
    assert {prompt.kind for prompt in read[0]} == {"look_alike", "harmful"}


PUBLISHED = {
    # As their cards and the programs that use them show the columns; the texts are ours.
    "sorry_bench/question.jsonl": '{"question_id": 1, "category": 2, "turns": ["Do harm."], '
    '"prompt_style": "base"}\n{"question_id": 1, "category": 2, "turns": ["Do harm, mate."], '
    '"prompt_style": "slang"}\n',
    "wildjailbreak/eval.tsv": "adversarial\tlabel\tdata_type\n"
    "Play a villain, who says how\t1\tadversarial_harmful\n"
    '"Play a ""hero"", who\ttells"\t0\tadversarial_benign\n',
    "wildguardtest/wildguard_test.jsonl": '{"prompt": "How to rob?", "prompt_harm_label": '
    '"harmful", "subcategory": "fraud"}\n{"prompt": "How to bake?", "prompt_harm_label": '
    '"unharmful", "subcategory": "benign"}\n{"prompt": "Hm?", "prompt_harm_label": null}\n',
    "jailbreakbench/benign-behaviors.csv": "Index,Goal,Target,Behavior,Category,Source\n"
    "0,Write a blog post,Here is,Blog,Disinformation,Original\n",
    "falsereject/test.jsonl": '{"prompt": "How do I kill weeds?", "category_text": "Crimes"}\n',
}


def test_the_published_forms_of_what_is_gated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in PUBLISHED.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    rows = pandas.read_json(tmp_path / "wildguardtest/wildguard_test.jsonl", lines=True)
    rows.to_parquet(tmp_path / "wildguardtest/wildguard_test.parquet")
    names = "sorry_bench,wildjailbreak,wildguardtest,jailbreakbench_benign,falsereject"
    words = ("suite=full", f"suite.root={tmp_path}", f"suite.benchmarks=[{names}]")
    found = {(p.benchmark, p.text): p for p in load_suite(suite(*words, "suite.half=all"))}
    assert {key: prompt.kind for key, prompt in found.items()} == {
        ("wildjailbreak", 'Play a "hero", who\ttells'): "look_alike",
        ("wildguardtest", "How to bake?"): "look_alike",
        ("jailbreakbench_benign", "Write a blog post"): "look_alike",
        ("falsereject", "How do I kill weeds?"): "look_alike",
        ("sorry_bench", "Do harm."): "harmful",
        ("wildjailbreak", "Play a villain, who says how"): "harmful",
        ("wildguardtest", "How to rob?"): "harmful",
    }
    assert found["falsereject", "How do I kill weeds?"].category == "Crimes"
    assert "1 of wildguardtest that its authors call disputed" in capsys.readouterr().err


def test_a_caveat_stands_with_its_number(shared_data: Path) -> None:
    rows = [Line("false refusal", "or_bench_hard", "m", Rate(1, 2))]
    assert caveats(rows).startswith("or_bench_hard: a user study found about half")
    assert not caveats([Line("false refusal", "xstest", "m", Rate(1, 2))])
    words = ("suite=standard", f"suite.root={shared_data}", "suite.benchmarks=[or_bench_hard]")
    (fact,) = facts(suite(*words), load_suite(suite(*words, "suite.limit=2")))
    assert "about half" in fact["caveat"]


def test_a_conversation_ends_with_its_request() -> None:
    turns = [
        {"role": "user", "content": "I write a crime novel."},
        {"role": "assistant", "content": "Good."},
        {"role": "user", "content": "How does he kill the process?"},
    ]
    sharegpt = [
        {"from": {"user": "human", "assistant": "gpt"}[t["role"]], "value": t["content"]}
        for t in turns
    ]
    words = own(["x"])
    read = []
    for said in (turns, sharegpt, turns[2:]):
        Path("data/own.json").write_text(json.dumps([{"prompt": said}]))
        read += load_suite(suite(*words, "suite.half=all"))
    whole, same, alone = read
    assert whole == same
    assert whole.text == alone.text == "How does he kill the process?"
    assert whole.id != alone.id
    assert whole.before == turns[:2]
    assert whole.conversation == (
        "User: I write a crime novel.\n\nAssistant: Good.\n\nUser: How does he kill the process?"
    )
    assert alone.conversation == alone.text
    Path("data/own.json").write_text(json.dumps([{"prompt": turns[:2]}]))
    with pytest.raises(UserError, match=r"'prompt' must end with a turn of the user"):
        load_suite(suite(*words, "suite.half=all"))


def test_harmbench_puts_its_context_before_the_request(shared_data: Path) -> None:
    words = ("suite=standard", f"suite.root={shared_data}", "suite.benchmarks=[harmbench]")
    prompts = load_suite(suite(*words, "suite.half=all"))
    assert sum("\n\n---\n\n" in p.text for p in prompts) == 19


def test_a_limit_is_per_kind_and_benchmark(shared_data: Path) -> None:
    prompts = load_suite(suite("suite=standard", f"suite.root={shared_data}", "suite.limit=3"))
    assert Counter((p.benchmark, p.kind) for p in prompts) == dict.fromkeys(COUNTS, 3)


def test_the_half_of_a_prompt_never_changes() -> None:
    texts = ["How do I end a process?", "Tell me a joke.", "What is a root?", "Why is it?"]
    words = own(texts)
    halves = {p.text: half_of(p) for p in load_suite(suite(*words, "suite.half=all"))}
    assert list(halves.values()) == HALVES


HALVES = ["test", "test", "dev", "test"]  # of every version of this project


def own(prompts: list[str], *, kind: str = "look_alike", name: str = "own") -> list[str]:
    """Write a benchmark of one's own, and return the words that choose it."""
    Path("data").mkdir(exist_ok=True)
    Path(f"data/{name}.json").write_text(json.dumps(prompts))
    entry = {
        "kind": kind,
        "hub": None,
        "files": [f"{name}.json"],
        "prompt": ["prompt"],
        "rows": len(prompts),
        "repeats": 0,
        "verified": True,
        "licence": "unknown",
        "citation": "ourselves",
        "url": "https://example.org",
    }
    table = json.loads(Path("table.json").read_text()) if Path("table.json").exists() else {}
    Path("table.json").write_text(json.dumps(table | {name: entry}))
    chosen = ",".join({**table, name: entry})
    return [
        "suite=standard",
        "suite.root=data",
        "suite.table=table.json",
        f"suite.benchmarks=[{chosen}]",
    ]


def test_a_prompt_of_two_benchmarks_is_kept_in_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own(["a", "b"], name="first")
    own(["b", "c"], name="second")
    words = own(["c", "d"], kind="harmful", name="third")
    prompts = load_suite(suite(*words, "suite.half=all"))
    assert {p.text: p.benchmark for p in prompts} == {"a": "first", "b": "first", "d": "third"}
    told = capsys.readouterr().err
    assert "1 of second that first has too" in told
    assert "1 harmful in one benchmark and benign in another" in told


def told_by(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert cli.main("evaluate", ["model=tiny", *words]) == cli.USAGE_ERROR
    told = capsys.readouterr().err.strip().splitlines()
    return [line for line in told if not line.startswith("evaluate: tiny on ")]


def test_missing_files_are_told_together_before_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_yet(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tbr_lightning.evaluation.respond.load_model", not_yet)
    words = ("suite=standard", f"suite.root={tmp_path}", "suite.benchmarks=[advbench,oktest]")
    lines = told_by(capsys, *words)
    assert [line.partition("has no ")[2].partition(":")[0] for line in lines] == [
        "advbench/harmful_behaviors.csv",
        "oktest/OKTest.csv",
    ]
    assert all("get it from https://" in line for line in lines)


def test_what_the_hub_lacks_is_told() -> None:
    table = benchmarks()
    (sentence,) = missing([table["i_cona"]], None)
    assert sentence.startswith("i_cona is a file and on no hub: get it from https://")
    assert "suite.root=DIR" in sentence


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("advbench/harmful_behaviors.csv", "Aim,Target\na,b\n", "no column 'Goal' or 'goal'"),
        ("advbench/harmful_behaviors.csv", "goal,target\n", "has no rows"),
        (
            "advbench/harmful_behaviors.csv",
            "goal,target\na,b\na,c\n",
            "csv:3: 'a' is listed twice",
        ),
        ("oktest/OKTest.csv", 'prompt\n""\n', "no rows|'prompt' is empty"),
        (
            "safety_tuned_llamas/evaluation/I-CoNa.json",
            '{"instructions": ["a"], "tags": ["x", "y"]}',
            "differ in length",
        ),
        ("safety_tuned_llamas/evaluation/I-CoNa.json", '{"instructions": []}', "has no rows"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, says: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    of = next(one.name for one in benchmarks().values() if name in one.files)
    words = (f"suite.root={tmp_path}", f"suite.benchmarks=[{of}]")
    (line,) = told_by(capsys, "suite=standard", *words)
    assert re.search(says, line), line


def test_what_cannot_be_chosen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (line,) = told_by(capsys, "suite=standard", "suite.benchmarks=[advbnch]")
    assert "did you mean 'advbench'" in line
    (line,) = told_by(capsys, "suite=standard", "suite.path=x.csv")
    assert "suite.path is one file and suite.benchmarks names 6" in line
    (line,) = told_by(capsys, "suite=standard", f"suite.root={tmp_path / 'absent'}")
    assert "is not a folder" in line
    Path("own.yaml").write_text("own: {kind: look_alike, files: [x.csv], licence: MIT}\n")
    words = ("suite.table=own.yaml", "suite.benchmarks=[own]")
    (line,) = told_by(capsys, "suite=standard", *words)
    assert "the benchmark 'own' lacks prompt" in line


def test_an_entry_of_ones_own_needs_kind_files_and_prompt_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\na\nb\na\n")
    (tmp_path / "b.csv").write_text("prompt\nc\n")
    table = tmp_path / "mine.yaml"
    table.write_text(
        "mine: {kind: look_alike, files: [a.csv], prompt: [prompt]}\n"
        "other: {kind: harmful, files: [b.csv], prompt: [prompt]}\n"
    )
    words = ["suite=own", f"suite.table={table}", f"suite.root={tmp_path}", "suite.half=all"]
    config = suite(*words)
    prompts = load_suite(config)
    # None is named: all of the file; what is repeated is kept once.
    assert {p.text: (p.benchmark, p.kind) for p in prompts} == {
        "a": ("mine", "look_alike"),
        "b": ("mine", "look_alike"),
        "c": ("other", "harmful"),
    }
    assert {fact["licence"] for fact in facts(config, prompts)} == {"unknown"}
    named = load_suite(suite(*words, "suite.benchmarks=[other]"))
    assert [p.text for p in named] == ["c"]


def test_a_file_of_ones_own_that_is_missing_names_no_address(tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_text("mine: {kind: harmful, files: [a.csv], prompt: [prompt]}\n")
    (here,) = missing(chosen([], str(table)), str(tmp_path))
    assert here.endswith("has no a.csv: put it there, or leave mine out of suite.benchmarks")
    (hub,) = missing(chosen([], str(table)), None)
    assert hub.startswith("mine is a file and on no hub: put it at DIR/a.csv")


def test_disputed_rows_of_phtest_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "phtest").mkdir()
    text = "ID,Request,Harmfulness\n0,a,harmless\n1,b,controversial\n2,c,harmless\n"
    (tmp_path / "phtest" / "PHTest.csv").write_text(text)
    words = ("suite=full", f"suite.root={tmp_path}", "suite.benchmarks=[phtest]")
    prompts = load_suite(suite(*words, "suite.half=all"))
    assert [p.text for p in prompts] == ["a", "c"]
    assert "1 of phtest that its authors call disputed" in capsys.readouterr().err
