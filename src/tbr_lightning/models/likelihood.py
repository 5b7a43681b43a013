"""Log-likelihoods of given continuations of given contexts, each shared part read once.

Questions of a task begin alike (instructions, worked examples), and the options of a question
share all of it. So a cache is filled in three steps: the beginning of many contexts once, the rest
of each context once, and every continuation. Only what is asked for goes through the head.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from transformers import DynamicCache

from tbr_lightning.models.decoding import may_share, rows_that_fit, supports

T = TypeVar("T", bound=Hashable)

_SHARED = 8  # tokens that a common beginning must have, for its copies to be worth the step
_PADDED = 1.2  # maximum ratio of the longest of a batch to its shortest
_LOGITS = 2**28  # numbers of one step, 1 GiB: a vocabulary has up to 256,000 tokens


@dataclass(frozen=True)
class Continuation:
    """A context and what follows it, as token ids; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


Scored = tuple[float, bool]
"""Summed log-likelihood of a continuation, and whether it is what greedy decoding writes."""


def log_likelihoods(
    model: Any, pairs: Sequence[Continuation], pad: int, batch_size: int | None = None
) -> Iterator[tuple[int, Scored]]:
    """Yield (number of the pair, its score), batch by batch.

    Args:
        model: A causal language model.
        pairs: Pairs to score; each must fit into the model's context.
        pad: Token that fills up rows.
        batch_size: Continuations scored together; ``None`` for as many as are sure to fit.
    """
    if not pairs:
        return
    longest = max(len(pair.context) + len(pair.continuation) for pair in pairs)
    scored = max(len(pair.continuation) for pair in pairs) if supports(model) else longest
    words = model.get_input_embeddings().weight.shape[0]
    rows = min(batch_size or rows_that_fit(model, longest), max(_LOGITS // (scored * words), 1))
    if not supports(model):
        order = sorted(range(len(pairs)), key=lambda n: -len(pairs[n].context))
        for start in range(0, len(order), rows):
            yield from _whole(model, [(n, pairs[n]) for n in order[start : start + rows]], pad)
        return
    by_context: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        by_context.setdefault(pair.context, []).append(number)
    for shared, contexts in _clusters(sorted(by_context), may_share(model, longest)):
        begun = _read(model, [contexts[0][:shared]], pad, None) if shared else None
        left = {context: len(context) - shared for context in contexts}
        many = {context: len(by_context[context]) for context in contexts}
        for batch in _batches(contexts, left, many, rows):
            asked = [(n, pairs[n]) for context in batch for n in by_context[context]]
            yield from _after(model, asked, pad, begun, shared)


def _batches(
    items: Sequence[T], lengths: Mapping[T, int], sizes: Mapping[T, int], most: int
) -> Iterator[list[T]]:
    """Yield items of about one length together, so that little of a batch is padding."""
    batch: list[T] = []
    for item in sorted(items, key=lengths.__getitem__):
        full = sum(sizes[one] for one in batch) + sizes[item] > most
        if batch and (full or lengths[item] > _PADDED * lengths[batch[0]] + 2):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _clusters(
    contexts: Sequence[tuple[int, ...]], share: bool
) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """Yield (length of the common beginning, contexts) of sorted contexts.

    A context joins the ones before it unless that shortens their common beginning so much that
    less is saved than without it. At least one token of each context is left.
    """
    common = [_common(a, b) for a, b in pairwise(contexts)] if share else []
    cluster, shared = [contexts[0]], len(contexts[0]) - 1
    for context, same in zip(contexts[1:], common or [0] * (len(contexts) - 1), strict=True):
        shorter = min(shared, same, len(context) - 1)
        if share and shorter * len(cluster) < shared * (len(cluster) - 1):
            yield _worth(shared, cluster), cluster
            cluster, shared = [context], len(context) - 1
        else:
            cluster, shared = [*cluster, context], shorter
    yield _worth(shared, cluster), cluster


def _worth(shared: int, cluster: Sequence[tuple[int, ...]]) -> int:
    return shared if shared >= _SHARED and len(cluster) > 1 else 0


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass
class _Seen:
    """What a model has read: its cache, which of it is not padding, and the last logits."""

    cache: DynamicCache
    mask: torch.Tensor
    logits: torch.Tensor

    def rows(self, lines: list[int]) -> _Seen:
        """Return the state of the given rows, in this order; it is a copy."""
        cache, where = DynamicCache(), torch.tensor(lines, device=self.mask.device)
        for number, layer in enumerate(self.cache.layers):
            cache.update(layer.keys[where], layer.values[where], number)
        return _Seen(cache, self.mask[where], self.logits[where])


@torch.inference_mode()
def _read(model: Any, rows: Sequence[Sequence[int]], pad: int, before: _Seen | None) -> _Seen:
    """Read rows of tokens, left-padded, so that what follows begins in one column."""
    ids, mask = _padded(rows, pad, left=True)
    ids, mask = ids.to(model.device), mask.to(model.device)
    places, cache = (mask.cumsum(1) - 1).clamp(min=0), DynamicCache()
    if before is not None:
        begun = before.rows([0] * len(rows))
        places, cache = places + begun.mask.sum(1, keepdim=True), begun.cache
        mask = torch.cat([begun.mask, mask], dim=1)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1:]
    return _Seen(cache, mask, logits)


@torch.inference_mode()
def _after(
    model: Any,
    batch: Sequence[tuple[int, Continuation]],
    pad: int,
    begun: _Seen | None,
    shared: int,
) -> Iterator[tuple[int, Scored]]:
    """Yield the scores of continuations of contexts whose beginning has been read."""
    contexts = list(dict.fromkeys(pair.context for _, pair in batch))
    seen = _read(model, [context[shared:] for context in contexts], pad, begun)
    lines = {context: line for line, context in enumerate(contexts)}
    lengths = {place: len(pair.continuation) for place, (_, pair) in enumerate(batch)}
    for part in _batches(list(lengths), lengths, dict.fromkeys(lengths, 1), len(batch)):
        some = [batch[place] for place in part]
        yield from _continued(model, some, pad, seen, [lines[pair.context] for _, pair in some])


@torch.inference_mode()
def _continued(
    model: Any, batch: Sequence[tuple[int, Continuation]], pad: int, seen: _Seen, of_pair: list[int]
) -> Iterator[tuple[int, Scored]]:
    """Yield the scores of continuations, given the line of each one's context in what was read."""
    targets, given = _padded([pair.continuation for _, pair in batch], pad, left=False)
    targets, given = targets.to(model.device), given.to(model.device)
    logits = seen.logits[of_pair]
    if targets.shape[1] > 1:
        state = seen.rows(of_pair)
        steps = torch.arange(targets.shape[1] - 1, device=model.device)
        rest = model(
            input_ids=targets[:, :-1],
            attention_mask=torch.cat([state.mask, given[:, :-1]], dim=1),
            position_ids=state.mask.sum(1, keepdim=True) + steps,
            past_key_values=state.cache,
            use_cache=True,
        ).logits
        logits = torch.cat([logits, rest], dim=1)
    yield from zip((n for n, _ in batch), _sums(logits, targets, given), strict=True)


@torch.inference_mode()
def _whole(
    model: Any, batch: Sequence[tuple[int, Continuation]], pad: int
) -> Iterator[tuple[int, Scored]]:
    """Yield the scores by reading each pair as one row, for models without a plain cache."""
    rows = [[*pair.context, *pair.continuation[:-1]] for _, pair in batch]
    ids, mask = _padded(rows, pad, left=False)
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    for line, (number, pair) in enumerate(batch):
        targets = torch.tensor([pair.continuation], device=logits.device)
        found = logits[line : line + 1, len(pair.context) - 1 : len(rows[line])]
        yield number, _sums(found, targets, torch.ones_like(targets))[0]


def _sums(logits: torch.Tensor, targets: torch.Tensor, given: torch.Tensor) -> list[Scored]:
    logits = logits.float()
    chosen = logits.gather(2, targets[:, :, None]).squeeze(2)
    sums = ((chosen - logits.logsumexp(-1)) * given).sum(1)
    greedy = ((logits.argmax(-1) == targets) | (given == 0)).all(1)
    return list(zip(sums.tolist(), greedy.tolist(), strict=True))


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[Any, Any]:
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[line, where], mask[line, where] = torch.tensor(row), 1
    return ids, mask
