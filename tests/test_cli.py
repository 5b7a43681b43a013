"""The command form of the verbs."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys

import pytest

from tbr_lightning import cli, errors, outages
from tbr_lightning.__main__ import ABOUT
from tbr_lightning.config.compose import compose_verb, keys_of
from tbr_lightning.config.help import COMMON
from tbr_lightning.config.verbs import VERBS

HEAVY = (
    *("torch", "transformers", "lightning", "mlflow", "optuna"),
    "tbr_lightning.evaluation.judges.rules",  # compiles its patterns
)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_the_terminal_and_names_keys_as_they_are_typed(
    verb: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.main(verb, ["--help"]) == 0
    text = capsys.readouterr().out
    assert f"python -m tbr_lightning.{verb}" in text
    assert "--cfg job" in text and "model_uri" not in text
    assert max(map(len, text.splitlines())) <= columns
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_the_help_is_a_key_of_the_verb(verb: str) -> None:
    composed = compose_verb(verb, [], check=False)
    known = {*keys_of(composed.node), *composed.choices}
    known |= {"model"} if "model_uri" in known else set()
    _, keys = COMMON[verb]
    assert {key for key, _ in keys} <= known
    assert 3 <= len(keys) <= 11


def test_help_shows_what_an_override_makes_of_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("evaluate", ["--help", "suite=own"]) == 0
    assert "suite=own " in capsys.readouterr().out


def test_cfg_prints_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("train", ["--cfg", "job", "seed=7"]) == 0
    assert "\nseed: 7\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer.lrr=1"], "did you mean 'optimizer.lr'"),
        (["seed"], "'seed' is not an action"),
        (["--confg"], "did you mean '--cfg'"),
        (["--cfg", "hydra"], "--help"),
    ],
)
def test_wrong_use_exits_with_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main("train", words) == cli.USAGE_ERROR
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told


@pytest.mark.parametrize("words", [["--help"], ["optimizer.lrr=1"]])
def test_help_and_errors_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from tbr_lightning.cli import main\n"
        f"main('train', {words!r})\n"
        f"sys.exit(bool(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0


def test_the_package_lists_its_verbs_and_composes_nothing() -> None:
    code = (
        "import sys; from tbr_lightning.__main__ import main\n"
        "sys.argv = ['tbr']; main(); sys.exit('hydra' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")][
        : len(VERBS)
    ] == [*ABOUT]
    assert set(ABOUT) == set(VERBS)


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (
            "HTTPConnectionPool(host='h'): Max retries exceeded with url: http://a:b@h/",
            True,
        ),
        ("(sqlite3.OperationalError) database is locked", True),
        ("INVALID_PARAMETER_VALUE: no such run", False),
    ],
)
def test_an_outage_is_told_with_what_is_left_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cause: str, says: bool
) -> None:
    from mlflow.exceptions import MlflowException

    def command(config: object) -> int:
        raise MlflowException(cause)

    # By the module: the package's attribute of that name may be the function of the Python API.
    monkeypatch.setattr(importlib.import_module("tbr_lightning.promote"), "command", command)
    if not says:  # a fault of ours is no outage
        with pytest.raises(MlflowException):
            cli.main("promote", ["model=models:/m-x"])
        return
    assert cli.main("promote", ["model=models:/m-x"]) == 75
    told = capsys.readouterr().err
    assert "does not answer" in told and "the same command again" in told
    assert "a:b" not in told


def _main(monkeypatch: pytest.MonkeyPatch, error: BaseException, behind: BaseException) -> int:
    def command(config: object) -> int:
        raise error from behind

    monkeypatch.setattr(importlib.import_module("tbr_lightning.promote"), "command", command)
    return cli.main("promote", ["model=models:/m-x"])


@pytest.mark.parametrize("name", ["/there/weights", None])
def test_a_full_disk_is_told_as_one_whatever_it_was_taken_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str | None
) -> None:
    monkeypatch.setattr(errors, "_fullest", lambda: "/full")
    taken_for, full = errors.UserError("the files are gone: train again"), OSError(28, "x", name)
    assert _main(monkeypatch, taken_for, full) == cli.USAGE_ERROR
    told = capsys.readouterr().err
    assert f"the disk is full at {name or '/full'}: free some space" in told
    assert "train again" not in told


def test_an_outage_that_a_sentence_tells_of_has_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(monkeypatch, outages.OutageError("it sleeps"), TimeoutError()) == cli.OUTAGE
    assert "it sleeps" in capsys.readouterr().err
    assert _main(monkeypatch, errors.UserError("wrong"), TimeoutError()) == cli.USAGE_ERROR


@pytest.mark.parametrize(
    "url",
    [
        "http://someone:PLANTED@host/v1",
        "http://someone:PLAN@TED@host/v1",
        "https://host/v1?api_key=PLANTED",
        "https://host/v1?x=1&subscription-key=PLANTED",
        "postgresql+psycopg://a:PLANTED@host:5432/db",
    ],
)
def test_no_credential_of_a_url_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    _main(monkeypatch, errors.UserError(f"{url} does not answer ('{url}')"), TimeoutError())
    told = capsys.readouterr().err
    assert "PLAN" not in told and "TED" not in told
    assert told.count("host") == 2


def test_a_terminal_of_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main("train", ["model=tiny", "--cfg", "job", "run_name=été"]) == 0
    sys.stdout.flush()
    assert b"run_name: \\xe9t\\xe9" in written.getvalue()


def test_words_in_utf8_are_read_in_a_locale_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    # As Python hands over what it took for ASCII.
    assert cli.main("train", ["--cfg", "job", "run_name=\udcc3\udca9t\udcc3\udca9"]) == 0
    assert "run_name: été" in capsys.readouterr().out
    assert cli.main("train", ["--cfg", "job", "run_name=\udcff"]) == cli.USAGE_ERROR
    assert "is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["${", "a${b"])
def test_a_reference_without_its_end_is_told(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main("train", ["--cfg", "job", f"run_name={value}"]) == cli.USAGE_ERROR
    assert "begins a reference with ${ that has no end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("started", "typed"),
    [
        ("/there/bin/tbr", "tbr train"),
        ("/there/src/tbr_lightning/train.py", "python -m tbr_lightning.train"),
        ("/there/bin/pytest", "python -m tbr_lightning.train"),
    ],
)
def test_messages_name_commands_as_they_were_typed(
    started: str, typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert errors.command_of("train") == typed
    assert cli.main("train", ["--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: {typed} [key=value …]")
