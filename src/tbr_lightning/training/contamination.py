"""Benchmark prompts among the training rows: counted, and refused unless they are allowed."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tbr_lightning.config.verbs import ApartConfig
from tbr_lightning.data.example import Example
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.benchmarks import chosen, local_file, published_rows
from tbr_lightning.evaluation.contamination import Overlap, overlap, training_hashes
from tbr_lightning.evaluation.suites import prompts_of


def suite_overlap(config: ApartConfig, examples: Iterable[Example]) -> dict[str, Overlap]:
    """Return for each benchmark that is available how many of its prompts occur in the rows.

    Equality ignores case, blanks and punctuation; sharing most runs of six words counts too.

    Raises:
        UserError: A benchmark is not known, the folder is missing, or a file is malformed.
    """
    if config.root is None or not config.benchmarks:
        return {}
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"apart.root='{root}' is not a folder: give the one that holds the files")
    prompts = [
        prompt
        for benchmark in chosen(config.benchmarks, None)
        if local_file(benchmark, root) is not None
        for prompt in prompts_of(benchmark, published_rows(benchmark, config.root), Counter())
    ]
    if not prompts:
        raise UserError(
            f"apart.root='{root}' holds none of {', '.join(config.benchmarks)}: give the folder of "
            "the benchmarks' files, or apart.benchmarks that it holds"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npz"
        file.write_bytes(training_hashes(text for one in examples for text in one.requests))
        return overlap(file, prompts)


def check_apart(config: ApartConfig, found: Mapping[str, Overlap]) -> None:
    """Report the overlap that :func:`suite_overlap` found.

    Raises:
        UserError: More prompts occur in the rows than ``apart.allowed``.
    """
    seen = sum(one.seen for one in found.values())
    told = ", ".join(f"{one.seen} of {one.n} of {name}" for name, one in found.items())
    if seen > config.allowed:
        raise UserError(
            f"apart.allowed={config.allowed}: {seen} evaluation prompts are in the training rows "
            f"({told}): remove these rows, or allow them with apart.allowed={seen}"
        )
    if found:
        print(f"train: evaluation prompts that are in the rows: {told}", file=sys.stderr)
