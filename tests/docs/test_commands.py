"""Every command and snippet of README and docs parses and composes as it is printed."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import tbr_lightning
from tbr_lightning import api, cli
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.verbs import VERBS

from ..conftest import ROOT
from .conftest import PAGES, Block, blocks, name

KNOWN = {
    "cd",
    "curl",
    "docker",
    "eval",
    "export",
    "gzip",
    "hf",
    "kubectl",
    "mlflow",
    "register-python-argcomplete",
    "sbatch",
    "source",
    "torchrun",
}
"""Programs of others, whose words are not looked at beyond those that reach a verb."""

API = {"train", "evaluate", "compare", "promote", "reflect"}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block, one for each part of a pipe."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words: list[str] = []
        for word in lexer:
            if word.startswith("#"):  # as a shell has it: at the beginning of a word
                break
            if set(word) <= set("|;&"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


def verb_in(words: list[str]) -> list[str] | None:
    """Return verb and overrides of a command that reaches one, else ``None``."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]  # variables before a command
    if not words:
        return None
    for number, word in enumerate(words):
        if word == "-m" and words[number + 1].startswith("tbr_lightning."):
            return [words[number + 1].removeprefix("tbr_lightning."), *words[number + 2 :]]
    if words[0] == "tbr":
        return words[1:]
    if words[0] in ("docker", "docker compose") and "run" in words:
        rest = [word for word in words[words.index("run") + 1 :] if not word.startswith("-")]
        if rest and rest[0] in ("train", "promote"):
            return rest[1:] if rest[1:] and rest[1] in VERBS else rest
    if words[0] == "sbatch" and "--wrap" in words:
        return verb_in(shlex.split(words[words.index("--wrap") + 1]))
    return None


def check(words: list[str], where: str) -> None:
    """Compose a verb's command line, as it is or with files that a block beside it shows."""
    if words == ["VERB", "key=value", "…"]:
        return
    verb, rest = words[0], words[1:]
    assert verb in VERBS, f"{where}: {verb} is not a verb"
    rest = rest[: rest.index(">")] if ">" in rest else rest
    args, action, overrides = cli._parse(verb, rest)
    given = [*cli.NOT_NEEDED.get((verb, action), []), *overrides]
    printed = args.help or args.cfg or verb == "demo"  # a demo's config wants its files there
    compose_verb(verb, given, args.config_dir, check=not printed)


@pytest.fixture
def beside(importable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands name and no page shows."""
    monkeypatch.chdir(importable)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (importable / "DIR").mkdir()
    return importable


def shown(page: Path, folder: Path) -> list[Block]:
    """Write the files that a page shows, and return its blocks."""
    found = list(blocks(page))
    for block in found:
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_parses_and_composes(page: Path, beside: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for block in shown(page, beside):
        if block.language not in ("bash", "sh", "shell", "console"):
            continue
        for words in commands(block.text):
            where = f"{block.where}: {' '.join(words)}"
            line = verb_in(words)
            if line is not None:
                check(line, where)
            elif words[0] == "make":
                targets = [word for word in words[1:] if "=" not in word]
                assert all(re.search(rf"^{t}:", makefile, re.M) for t in targets), where
                for setting in (word.partition("=")[0] for word in words[1:] if "=" in word):
                    assert re.search(rf"^{setting} \?=", makefile, re.M), where
            elif words[0] == "pip":
                for extra in re.findall(r"tbr-lightning\[([\w,-]+)\]", " ".join(words)):
                    assert set(extra.split(",")) <= set(extras), where
            elif words[0] in ("python", "python3"):
                assert (ROOT / words[1]).is_file(), where
            else:
                assert words[0] in KNOWN, f"{where}: this test does not know {words[0]}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_snippet_of_python_compiles_and_its_names_exist(page: Path, beside: Path) -> None:
    for block in shown(page, beside):
        if block.language == "python":
            tree = ast.parse(block.text, block.where)
            if block.title:  # a part of one's own: all of it can be imported
                importlib.import_module(".".join(Path(block.title).with_suffix("").parts))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module == "tbr_lightning":
                    for alias in node.names:
                        assert hasattr(tbr_lightning, alias.name), f"{block.where}: {alias.name}"
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(node, ast.Call) and isinstance(called, ast.Name) and called.id in API:
                    check_call(node, called.id)
        elif block.language in ("yaml", "yml"):
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)


def check_call(node: ast.Call, function: str) -> None:
    """Compose the settings of a call of the API, with any model where it takes one."""
    settings = {item.arg: ast.literal_eval(item.value) for item in node.keywords if item.arg}
    words = [ast.literal_eval(a) for a in node.args if isinstance(a, ast.Constant)]
    verb = "evaluate" if function == "compare" else function
    if function in ("evaluate", "compare", "promote"):
        settings["model"], words = "models:/m-0", words[1:]
    api._config(verb, words, settings, None)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_within_lines_name_verbs_and_actions(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for found in re.findall(r"`((?:tbr|python -m tbr_lightning\.)[^`]*)`", text):
        words = verb_in(found.split())
        if words and words[0] not in ("VERB", "--help") and "=" not in words[0]:
            assert words[0] in VERBS, f"{name(page)}: {found}"
            if words[1:] and re.fullmatch(r"[a-z]+", words[1]):
                assert words[1] in cli.ACTIONS.get(words[0], ()), f"{name(page)}: {found}"


def test_the_batch_script_composes(beside: Path) -> None:
    text = (ROOT / "docs" / "slurm.sbatch").read_text().replace('"$SLURM_NNODES"', "2")
    (line,) = [
        words for words in commands(text.replace(" &\n", "\n")) if "tbr_lightning.train" in words
    ]
    found = verb_in(line)
    assert found is not None
    check(found, "slurm.sbatch")


def test_the_manifest_for_kubernetes_composes(beside: Path) -> None:
    spec = yaml.safe_load((ROOT / "docs" / "kuberay.yaml").read_text())["spec"]
    text = (ROOT / "sweeps" / "paper.yaml").read_text()
    (beside / "paper.yaml").write_text(text)
    (line,) = commands(spec["entrypoint"].replace("study=/study/", "study="))
    found = verb_in(line)
    assert found is not None
    check(found, "kuberay.yaml")
    pins = (ROOT / "constraints.txt").read_text()
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}" in pins.splitlines()
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    gpus = group["replicas"] * int(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert f"sweep.workers={gpus}" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tbr train trainer.max_step=3", "max_steps"),
        ("python -m tbr_lightning.evaluate model=x suit=smoke", "suit"),
        ("docker compose run --rm train reflecton=external", "reflecton"),
    ],
)
def test_a_wrong_command_would_be_found(text: str, says: str, beside: Path) -> None:
    (words,) = commands(text)
    line = verb_in(words)
    assert line is not None
    with pytest.raises(Exception, match=says):
        check(line, "here")
