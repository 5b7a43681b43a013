"""How much of a machine without a GPU an engine gets.

Left to itself, continuous batching takes most of the memory for its cache of keys and values and
fills it at the start: a second engine beside it, for the next version, would find none. And torch
computes on every core, so that each pass waits for the thread whose core reads a request just then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import psutil

from tbr_lightning.processes import cores

_PAGE = 256  # tokens in a block, transformers' default
_BATCH = 2048  # tokens in a forward pass; the mask of a pass is as wide as the whole cache
_SLOTS = 64  # requests of full length that fit at once
_SHARE = 0.2  # of the machine's memory, for one of two engines
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def cache_words(config: Mapping[str, Any], memory: int | None = None) -> list[str]:
    """Return the words that set the size of the cache on a CPU.

    Args:
        config: The model's ``config.json``.
        memory: Bytes that the machine has; ``None`` to ask.
    """
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or 1
    size = config.get("head_dim") or config.get("hidden_size", 0) // (
        config.get("num_attention_heads") or 1
    )
    width = _BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4)
    # Keys and values of every layer, and the block's columns of the attention mask.
    block = _PAGE * width * (2 * (config.get("num_hidden_layers") or 1) * heads * size + _BATCH)
    wanted = _SLOTS * math.ceil((config.get("max_position_embeddings") or 4096) / _PAGE)
    budget = (memory or psutil.virtual_memory().total) * _SHARE
    blocks = max(4, min(wanted, int(budget // block)))
    return ["--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", str(_BATCH)]


def compute_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that leave a core to reading requests and writing replies.

    Args:
        environment: Of the engine; a number of threads that it holds stays.
    """
    if "OMP_NUM_THREADS" in environment:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, cores() - 1))}
