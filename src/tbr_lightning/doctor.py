"""The command ``doctor``: what works on this machine, and what is missing."""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.verbs import DoctorConfig


def command(config: DoctorConfig) -> int:
    """Print a line for each part; return 1 if one that every run needs does not work."""
    from tbr_lightning import diagnosis

    findings = diagnosis.examine(config)
    diagnosis.show(findings)
    return int(any(one.state == "fails" for one in findings))


if __name__ == "__main__":
    sys.exit(cli.main("doctor"))
