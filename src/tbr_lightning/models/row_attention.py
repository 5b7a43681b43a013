"""Attention on a CPU, where torch's own kernel does more than is needed.

Packed rows: the kernel does not support rows of different length in one line. With a mask that
keeps them apart it computes the whole square of the line, of which all but the blocks on the
diagonal is thrown away; row by row it computes the blocks alone.

A decoding step: the kernel works in blocks of many queries, of which a step has one a head. Two
products of matrices take a third less time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_row"

_BEYOND = {"position_bias", "softcap", "cache", "s_aux"}  # options that `_of_step` does not know


def decode_packed(model: Any, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """Return the last hidden states of packed rows, with whatever attention the model has.

    Args:
        model: Causal language model.
        input_ids: Shape ``(1, tokens)``.
        position_ids: Shape ``(1, tokens)``, starting anew with each row.

    Returns:
        Shape ``(1, tokens, width)``.
    """
    decoder = model.get_decoder()
    told: dict[str, Tensor] = {}
    if decoder.config._attn_implementation == NAME:
        # A mask in four dimensions is taken for one that is complete and handed on: the square of
        # the line would else be made for nothing. Where it is looked at, `check_packing` shows it.
        told["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
        told["cu_seq_lens_q"] = _row_ends(position_ids)
    out = decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False, **told)
    states: Tensor = out.last_hidden_state
    return states


@contextmanager
def for_steps(model: Any) -> Iterator[None]:
    """Let a model use this attention while it decodes, if it is one of torch's on a CPU."""
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    taken = before == "sdpa" and model.device.type == "cpu" and model.dtype == torch.float32
    if taken:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        if taken:
            config._attn_implementation = before


def _row_ends(position_ids: Tensor) -> Tensor:
    """Return where packed rows begin and where the last one ends, shape ``(rows + 1,)``."""
    starts = (position_ids[0] == 0).nonzero()[:, 0]
    return pad(starts, (0, 1), value=position_ids.shape[1]).to(torch.int32)


def attention_by_row(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend within each packed row; without ``cu_seq_lens_q`` as ``sdpa`` does.

    Args:
        module: The attention layer.
        query: Shape ``(1, heads, tokens, width)``; ``(lines, …)`` where lines are not packed.
        key: Shape as ``query``, with the model's number of key heads.
        value: Shape as ``key``.
        attention_mask: Mask of lines that are not packed: which keys count, or what is added.
        cu_seq_lens_q: Where packed rows begin and the last one ends, shape ``(rows + 1,)``.
        sliding_window: Number of tokens that a token sees, itself included.
        **options: Scale, dropout and the like, as for ``sdpa``.

    Returns:
        Shape ``(1, tokens, heads, width)``; ``(lines, …)`` where lines are not packed.
    """
    if cu_seq_lens_q is None:
        told = {name for name, given in options.items() if given is not None}
        known = not told & _BEYOND and not options.get("dropout")
        one_query = query.shape[2] == 1 and query.dtype == torch.float32
        if one_query and known and not torch.is_grad_enabled():
            scale = options.get("scaling") or query.shape[3] ** -0.5
            return _of_step(query * scale, key, value, attention_mask), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = cu_seq_lens_q.diff().tolist()
    rows = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    seen = [
        sdpa_attention_forward(module, *row, _window(row[0], sliding_window), **options)[0]
        for row in rows
    ]
    return torch.cat(seen, dim=1), None


def _of_step(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with one query a head, shape ``(lines, 1, heads, width)``."""
    lines, heads, _, width = query.shape
    groups = key.shape[1]
    scores = query.reshape(lines, groups, heads // groups, width) @ key.transpose(2, 3)
    if mask is not None:
        if mask.shape[1] > 1:  # of each head
            mask = mask.reshape(lines, groups, heads // groups, -1)
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    seen: Tensor = scores.softmax(-1) @ value
    return seen.reshape(lines, 1, heads, value.shape[3])


def _window(query: Tensor, sliding_window: int | None) -> Tensor | None:
    """Return the mask of a row that is longer than the window, shape ``(1, 1, tokens, tokens)``."""
    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=query.device)
    behind = place[:, None] - place[None, :]
    return ((behind >= 0) & (behind < sliding_window))[None, None]


AttentionInterface.register(NAME, attention_by_row)
AttentionMaskInterface.register(NAME, sdpa_mask)
