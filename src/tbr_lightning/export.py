"""The command ``export``: a model for other programs: a folder, a GGUF file, or the hub."""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.export import ExportConfig


def command(config: ExportConfig) -> int:
    """Write the model, and print where it is and how it is used from there."""
    from tbr_lightning.exporting import pipeline

    result = pipeline.run(config)
    print(f"run {result.run_id}")
    print(f"folder {result.folder}")
    if result.url is not None:
        print(f"hub {result.url}")
    print(f"next: {result.next_step}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("export"))
