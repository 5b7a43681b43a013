"""``python -m tbr_lightning VERB``: the verbs, by one name."""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.verbs import VERBS
from tbr_lightning.errors import USAGE_ERROR, near

_ABOUT = {
    "reflect": "write safety reflections for the harmful rows",
    "train": "fine-tune with or without reflections; logs and exports the model",
    "evaluate": "measure false refusal, harmful compliance and general accuracy",
    "promote": "gate a model against the champion; move the registry's aliases",
    "serve": "serve the champion over an OpenAI-compatible API on loopback",
    "sweep": "run an Optuna study from sweeps/",
    "demo": "the whole loop in a miniature world",
}


def main() -> int:
    """Run a verb, or list them."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: tbr-lightning VERB [key=value …]   (or python -m tbr_lightning.VERB)\n")
        for verb, about in _ABOUT.items():
            print(f"  {verb:9} {about}")
        return 0
    if words[0] not in VERBS:
        print(f"'{words[0]}' is not a verb{near(words[0], VERBS)}", file=sys.stderr)
        return USAGE_ERROR
    return cli.main(words[0], words[1:])


if __name__ == "__main__":
    sys.exit(main())
