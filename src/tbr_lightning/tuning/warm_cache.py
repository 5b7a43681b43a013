"""Makes what all trials share before the first of them: base models, weights, rows."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.cache import content_key
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.processes import cores
from tbr_lightning.tuning.reuse import save


def warm_caches(configs: Sequence[TrainConfig], root: Path) -> None:
    """Make what the trials of a study have in common, each thing once.

    It runs in a process of its own, forked from the one that has imported the stack, and shows its
    progress on this one's terminal. Tokens and reflections are made by the first trial that wants
    them, while the others wait; see :func:`tbr_lightning.data.cache.built`.

    Args:
        configs: Training configs of points in which every choice occurs.
        root: Folder of the study's trials.

    Raises:
        UserError: Something cannot be made.
    """
    distinct = {_key(config): config for config in configs}
    marks = {key: root / "shared" / f"{key}.yaml" for key in distinct}
    missing = {key: file for key, file in marks.items() if not file.exists()}
    if not missing:
        return
    context = multiprocessing.get_context("forkserver")
    for key, file in missing.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        said, config = file.with_suffix(".error"), distinct[key]
        said.unlink(missing_ok=True)
        process = context.Process(target=_make, args=(config, said), daemon=True)
        process.start()
        process.join()
        if process.exitcode:
            words = said.read_text() if said.exists() else f"it ended with {process.exitcode}"
            raise UserError(f"model={config.model.name} cannot be prepared: {words}")
        save(config, file)


def _key(config: TrainConfig) -> str:
    data = asdict(config)["data"]
    return content_key(asdict(config.model), data, config.seed, config.paths.cache)


def _make(config: TrainConfig, said: Path) -> None:
    from tbr_lightning.models.backbone import load_backbone
    from tbr_lightning.processes import quiet
    from tbr_lightning.training.prepare import load_examples

    quiet()
    try:
        import torch

        # Nothing else runs here yet.
        torch.set_num_threads(cores())
        examples = load_examples(config)
        load_backbone(
            config.model,
            data=config.data.name,
            rows=examples,
            cache=Path(config.paths.cache),
            seed=config.seed,
        )
    except (UserError, OSError, MemoryError) as error:
        said.write_text(in_one_line(error))
        sys.stderr.flush()
        os._exit(2)
