"""What the shell offers at the cursor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tbr_lightning.completion import candidates


@pytest.mark.parametrize(
    ("verb", "words", "prefix", "expected"),
    [
        ("train", [], "refl", ["reflection.", "reflection="]),
        ("train", [], "reflection=", ["reflection=external", "reflection=internal"]),
        ("train", [], "optimizer.l", ["optimizer.lr="]),
        ("promote", [], "ro", ["rollback"]),
        ("promote", ["rollback"], "rea", ["reason="]),
        ("train", ["nonsense=1"], "see", ["seed="]),
    ],
)
def test_one_level_at_a_time(verb: str, words: list[str], prefix: str, expected: list[str]) -> None:
    found = candidates(verb, words, prefix)
    assert set(expected) <= set(found)
    assert not any("." in word.rstrip(".") for word in found if "." not in prefix)


def test_actions_come_first_only() -> None:
    assert "rollback" in candidates("promote", [], "")
    assert "rollback" not in candidates("promote", ["reason=x"], "")


def test_the_shell_is_answered() -> None:
    """As bash's function of argcomplete asks: the line in the environment, the answer on fd 8."""
    line = "tbr train reflection=ext"
    code = (
        "import os, sys; sys.argv = ['tbr']; os.dup2(1, 8); os.dup2(2, 9)\n"
        "from tbr_lightning.__main__ import main; main()"
    )
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **asked},
    )
    assert done.stdout.strip() == "reflection=external"
