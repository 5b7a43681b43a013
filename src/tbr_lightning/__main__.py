# PYTHON_ARGCOMPLETE_OK
"""The command ``tbr VERB``, which is ``python -m tbr_lightning`` too."""

from __future__ import annotations

import os
import sys

from tbr_lightning.errors import USAGE_ERROR, near

ABOUT = {
    "reflect": "write safety reflections for the harmful rows",
    "train": "fine-tune with or without reflections; logs and exports the model",
    "evaluate": "measure false refusal, harmful compliance and general accuracy",
    "promote": "gate a model against the champion; move the registry's aliases",
    "serve": "serve the champion over an OpenAI-compatible API on loopback",
    "export": "write a model for vLLM, llama.cpp and Ollama, or the hub",
    "sweep": "run an Optuna study from sweeps/",
    "demo": "the whole loop in a miniature world",
    "doctor": "what works on this machine, and what is missing",
}
"""What each verb does, in the order in which they are used."""

_COMPLETION = """
Completion of verbs, groups and keys, for this shell:
  bash, zsh  eval "$(register-python-argcomplete tbr)"
  fish       register-python-argcomplete --shell fish tbr | source
"""


def main() -> int:
    """Run a command, or list them."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could stand at the cursor
        from tbr_lightning import completion

        completion.answer()
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: tbr VERB [key=value …]   (or python -m tbr_lightning.VERB)\n")
        for verb, about in ABOUT.items():
            print(f"  {verb:9} {about}")
        print(f"\ntbr VERB --help shows the keys of a verb.\n{_COMPLETION}", end="")
        return 0
    if words[0] not in ABOUT:
        print(f"'{words[0]}' is not a verb{near(words[0], ABOUT)}", file=sys.stderr)
        return USAGE_ERROR
    from tbr_lightning import cli

    return cli.main(words[0], words[1:])


if __name__ == "__main__":
    sys.exit(main())
