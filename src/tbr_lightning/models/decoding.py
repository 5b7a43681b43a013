"""A decoding loop of our own: rows that ended leave the batch, waiting prompts take their place.

``model.generate`` holds a batch together until its longest answer ends, and spends a good part of a
small model's step on its own bookkeeping. Here the rows in flight are right-aligned in one cache,
so that rows of any age can be taken out and put in between two steps. The
cache has room behind what it holds.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tbr_lightning.models.row_attention import for_steps

_REFILL = 4  # prompts are let in once a quarter of the batch is free: each time costs a forward
_COMPACT = 8  # rows that ended are cut out once they are an eighth: each time copies the cache
_READ = 32  # prompts read together: they come by length, so that few tokens of them are padding
_ROOM = 64  # columns: a full cache is copied once in this many steps
_PLAIN = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Guidance:
    """Hooks into every forward pass of the loop.

    Attributes:
        beside: For each prompt by number, another one that is read beside it and gets the same
            new tokens; empty for none.
        mix: Returns the logits to choose from, given those of the prompts and of those beside them,
            each of shape ``(rows, vocabulary)``; needed with ``beside``.
        watch: Called before each forward pass with the number of the prompt of each line.
    """

    beside: Sequence[Sequence[int]] = ()
    mix: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    watch: Callable[[Sequence[int]], None] | None = None


@dataclass(frozen=True)
class Rules:
    """Decoding settings.

    Attributes:
        limit: Maximum number of new tokens per prompt.
        stops: Tokens that end an answer.
        pad: Token that fills up rows.
        suppress_first: Tokens that must not come first.
        temperature: Sampling temperature; 0 takes the most likely token.
        seed: Seed of sampling.
        ends: Returns whether the new tokens of a row hold an end other than a stop token.
        guidance: Hooks into every forward pass.
    """

    limit: int
    stops: Sequence[int]
    pad: int
    suppress_first: Sequence[int] = ()
    temperature: float = 0.0
    seed: int = 0
    ends: Callable[[Sequence[int]], bool] | None = None
    guidance: Guidance = field(default_factory=Guidance)


def supports(model: Any) -> bool:
    """Return whether the loop can drive a model: attention over a plain cache, on one process.

    Models whose weights are spread over processes need every rank to make the same number of
    steps, which ``model.generate`` ensures.
    """
    config = model.config.get_text_config(decoder=True)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (
        not (spread and torch.distributed.get_world_size() > 1)
        and not config.is_encoder_decoder
        and not getattr(inner, "_is_stateful", False)
        and set(getattr(config, "layer_types", None) or _PLAIN) <= _PLAIN
        and {"position_ids", "logits_to_keep"} <= set(inspect.signature(inner.forward).parameters)
    )


def decode(
    model: Any, prompts: Sequence[Sequence[int]], rules: Rules, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield (number of the prompt, new tokens with the stop token if one came), as rows end.

    Args:
        model: A causal language model that :func:`supports` accepts.
        prompts: Token ids of each prompt.
        rules: Decoding settings.
        batch_size: Maximum number of rows in flight.
    """
    # Longest first: what is let in later is shorter than what is in flight, so that little of the
    # cache is padding.
    beside = rules.guidance.beside or prompts
    waiting = sorted(range(len(prompts)), key=lambda n: max(len(prompts[n]), len(beside[n])))
    flight = _Flight(model, rules, _common_beginning(model, prompts, rules))
    while waiting or flight.alive:
        free = batch_size - flight.alive
        with for_steps(model):
            if waiting and (not flight.alive or free * _REFILL >= batch_size):
                entering = [waiting.pop() for _ in range(min(free, len(waiting)))]
                flight.compact()
                ended = []
                for start in range(0, len(entering), _READ):
                    some = entering[start : start + _READ]
                    ended += flight.admit([_Row(n, prompts[n], rules.seed) for n in some])
            else:
                lines = len(flight.rows)
                if (lines - flight.alive * flight.lines) * _COMPACT > lines:
                    flight.compact()
                ended = flight.step()
        for row in ended:
            yield row.number, row.made


def may_share(model: Any, longest: int) -> bool:
    """Return whether rows of different lengths, up to ``longest``, may share a beginning.

    The padding between it and their rests would count as part of a sliding window.
    """
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    return not isinstance(window, int) or longest <= window


def _common_beginning(model: Any, prompts: Sequence[Sequence[int]], rules: Rules) -> list[int]:
    """Return the tokens that all prompts begin with, to be read once; none where it cannot be.

    At least one token of each prompt is left. Guidance counts the lines of a forward pass.
    """
    longest = max(map(len, prompts)) + rules.limit
    if len(prompts) < 2 or rules.guidance != Guidance() or not may_share(model, longest):
        return []
    first, last = min(map(list, prompts)), max(map(list, prompts))  # all others lie between them
    same = [a == b for a, b in zip(first, last, strict=False)]
    shared = min([*(n for n, equal in enumerate(same) if not equal), len(same)])
    return first[: min(shared, *(len(prompt) - 1 for prompt in prompts))]


class _RoomyLayer(DynamicLayer):
    """Keys and values of a layer, with room behind them: a step writes its column there.

    One that grows by concatenation copies all it holds in every step.
    """

    room: tuple[torch.Tensor, ...] = ()

    def put(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace the keys and values, shape ``(rows, heads, columns, width)``."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.keys, self.values, self.room = keys, values, ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add columns and return all."""
        seen = self.get_seq_length()
        end = seen + key_states.shape[2]
        if not self.room or end > self.room[0].shape[2]:
            held = (self.keys, self.values) if seen else ()
            if not seen:
                self.lazy_initialization(key_states, value_states)
            self.room = tuple(
                part.new_empty(*part.shape[:2], end + _ROOM, part.shape[3])
                for part in (key_states, value_states)
            )
            for room, part in zip(self.room, held, strict=False):
                room[:, :, :seen] = part
        for room, part in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, seen:end] = part
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values


def _cache() -> DynamicCache:
    """Return an empty cache.

    Without the model's config every layer keeps all it has seen; the masks do the sliding.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = _RoomyLayer
    return cache


class _Row:
    """A prompt in flight.

    Its random numbers depend on the seed and the prompt alone, so that a sample does not depend on
    the rows that it is drawn with.
    """

    def __init__(self, number: int, prompt: Sequence[int], seed: int) -> None:
        self.number, self.prompt, self.live = number, prompt, True
        self.made: list[int] = []
        self.dice = random.Random(f"{seed} {list(prompt)}")


class _Flight:
    """The rows that are being decoded.

    Attributes:
        beginning: Tokens that all prompts begin with, which are read once.
        lines: Lines of the batch for each row: 2 where another prompt is read beside it.
        rows: Row of each line of the batch; those that ended stay until :meth:`compact`.
        alive: Number of rows that have not ended.
        mask: Which columns of the cache are not padding, shape ``(lines, width)``.
        last: The newest token of each line, shape ``(lines,)``.
        places: Position of that token, shape ``(lines,)``.
    """

    def __init__(self, model: Any, rules: Rules, beginning: Sequence[int]) -> None:
        self.model, self.rules, self._stops = model, rules, frozenset(rules.stops)
        self.beginning = beginning
        self._begun: DynamicCache | None = None
        self.rows: list[_Row] = []
        self.alive = 0
        self.lines = 2 if rules.guidance.beside else 1
        self.cache = _cache()
        self.mask = self.last = self.places = torch.zeros(0, dtype=torch.long)

    @torch.inference_mode()
    def admit(self, rows: list[_Row]) -> list[_Row]:
        """Read prompts, generate their first tokens, and add them to the rows in flight."""
        prompts, beside = [row.prompt for row in rows], self.rules.guidance.beside
        if beside:
            prompts = [text for row in rows for text in (row.prompt, beside[row.number])]
            rows = [row for row in rows for _ in range(self.lines)]
        begun = len(self.beginning)
        rests = [prompt[begun:] for prompt in prompts]
        width = max(map(len, rests))
        ids = torch.full((len(rows), width), self.rules.pad)
        mask = torch.zeros_like(ids)
        for line, rest in enumerate(rests):
            ids[line, width - len(rest) :] = torch.tensor(rest)
            mask[line, width - len(rest) :] = 1
        mask = pad(mask, (begun, 0), value=1).to(self.model.device)
        cache, width = self._read_beginning(len(rows)), width + begun
        self._watch(rows)
        logits = self.model(
            input_ids=ids.to(self.model.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, begun:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        last, places = self._choose(logits, rows, self.rules.suppress_first), mask.sum(1)
        if self.rows:
            width = max(self.mask.shape[1], width)
            mask = torch.cat([_widened(self.mask, width, 1), _widened(mask, width, 1)])
            last, places = torch.cat([self.last, last]), torch.cat([self.places, places])
            _join(self.cache, cache, width)
        else:
            self.cache = cache
        self.mask, self.last, self.places = mask, last, places
        self.rows, self.alive = self.rows + rows, self.alive + len(rows) // self.lines
        return self._ended(rows)

    def _read_beginning(self, lines: int) -> DynamicCache:
        """Return a cache of the common beginning of all prompts, for a number of lines."""
        cache = _cache()
        if not self.beginning:
            return cache
        if self._begun is None:
            self._begun = _cache()
            ids = torch.tensor([self.beginning], device=self.model.device)
            self.model(input_ids=ids, past_key_values=self._begun, use_cache=True, logits_to_keep=1)
        for number, layer in enumerate(self._begun.layers):
            shape = (lines, -1, -1, -1)
            cache.update(layer.keys.expand(shape), layer.values.expand(shape), number)
        return cache

    @torch.inference_mode()
    def step(self) -> list[_Row]:
        """Generate one more token of each row, and return the rows that end with it."""
        self.mask = pad(self.mask, (0, 1), value=1)
        self._watch(self.rows)
        logits = self.model(
            input_ids=self.last[:, None],
            attention_mask=self.mask,
            position_ids=self.places[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.places = self.places + 1
        self.last = self._choose(logits, self.rows)
        return self._ended(self.rows)

    def compact(self) -> None:
        """Remove the rows that have ended, and the padding that all others share."""
        kept = [line for line, row in enumerate(self.rows) if row.live]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[line] for line in kept]
        if not kept:
            return
        lines = torch.tensor(kept, device=self.mask.device)
        mask, self.last, self.places = self.mask[lines], self.last[lines], self.places[lines]
        start = int(mask.any(0).int().argmax())
        self.mask = mask[:, start:]
        for layer in self.cache.layers:
            layer.put(layer.keys[lines, :, start:], layer.values[lines, :, start:])

    def _watch(self, rows: Sequence[_Row]) -> None:
        if self.rules.guidance.watch is not None:
            self.rules.guidance.watch([row.number for row in rows])

    def _choose(
        self, logits: torch.Tensor, rows: Sequence[_Row], never: Sequence[int] = ()
    ) -> torch.Tensor:
        rows = rows[:: self.lines]
        if self.rules.guidance.mix is not None:
            logits = self.rules.guidance.mix(logits[::2], logits[1::2])
        logits[:, list(never)] = -torch.inf
        if not self.rules.temperature:
            tokens = logits.argmax(-1)
        else:
            draws = torch.tensor([[row.dice.random()] for row in rows], device=logits.device)
            shares = (logits.float() / self.rules.temperature).softmax(-1).cumsum(-1)
            # The last of the sums may miss one by rounding.
            tokens = torch.searchsorted(shares, draws * shares[:, -1:], right=True)[:, 0]
            tokens = tokens.clamp(max=logits.shape[-1] - 1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row.live:
                row.made.append(token)
        return tokens.repeat_interleave(self.lines)

    def _ended(self, rows: Sequence[_Row]) -> list[_Row]:
        limit, stops, ends = self.rules.limit, self._stops, self.rules.ends
        ended = [
            row
            for row in rows[:: self.lines]
            if row.live
            and (row.made[-1] in stops or len(row.made) == limit or (ends and ends(row.made)))
        ]
        for row in ended:
            row.live = False
        self.alive -= len(ended)
        return ended


def _widened(tensor: torch.Tensor, width: int, dimension: int) -> torch.Tensor:
    """Pad a tensor with zeros on the left of a dimension."""
    missing = width - tensor.shape[dimension]
    behind = tensor.dim() - 1 - dimension
    return pad(tensor, (0, 0) * behind + (missing, 0)) if missing else tensor


def _join(cache: DynamicCache, other: DynamicCache, width: int) -> None:
    """Put the rows of another cache below those of ``cache``, both right-aligned."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        pairs = ((layer.keys, more.keys), (layer.values, more.values))
        keys, values = (torch.cat([_widened(p, width, 2) for p in pair]) for pair in pairs)
        layer.put(keys, values)


def rows_that_fit(model: Any, tokens: int) -> int:
    """Return how many rows of ``tokens`` tokens to decode together.

    Their keys and values take at most half of a GPU's free memory, and on a CPU an eighth of all
    memory and 2 GiB: more rows gain little there. The cache is copied as it grows, hence twice the
    room. On a CPU it does not depend on what is free, so that batches, and with them rounding, are
    the same in every run.
    """
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    each = 2 * config.num_hidden_layers * shared * head * model.dtype.itemsize * tokens
    gpu = model.device.type == "cuda"
    if gpu:
        room = torch.cuda.mem_get_info(model.device)[0] // 2
    else:
        room = min(psutil.virtual_memory().total // 4, 2**32)
    return int(min(max(room // (2 * each), 1), 512 if gpu else 128))
