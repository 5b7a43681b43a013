"""The process of ``transformers serve``, with options that its command line lacks.

It listens on a Unix socket, which only the server's user can reach, and it can keep a request's
first token from being the one that opens a think block, as ``evaluate`` does in the arm
``suppressed``. A request asks for that by an id that ends with :data:`SUPPRESSED`. Replies hold no
control tokens but the think markers, as in an evaluation. It computes in the type that an
evaluation computes in, and on all cores but one, which is left to its own and the server's
requests.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import psutil

from tbr_lightning.models.precision import computed_in
from tbr_lightning.processes import cores

SUPPRESSED = "-suppressed"

# On a machine without a GPU an engine gets a share. Left to itself, continuous batching takes most
# of the memory for its cache of keys and values and fills it at the start: a second engine beside
# it, for the next version, would find none. And torch computes on every core, so that each pass
# waits for the thread whose core reads a request just then.
_PAGE = 256  # tokens in a block, transformers' default
_BATCH = 2048  # tokens in a forward pass; the mask of a pass is as wide as the whole cache
_SLOTS = 64  # requests of full length that fit at once
_SHARE = 0.2  # of the machine's memory, for one of two engines
_WIDTH = 4  # bytes of a number at most: many processors compute in float32 whatever was saved


def main(argv: list[str]) -> None:
    """Serve until terminated: ``--socket FILE --bar TOKEN --saved DTYPE WORDS…``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--bar", type=int, required=True)
    parser.add_argument("--saved", required=True, help="type of the saved weights")
    own, words = parser.parse_known_args(argv)
    os.environ |= compute_threads(os.environ)  # read when torch is imported
    _listen_on(own.socket)
    _bar_first(own.bar)
    hide_control_tokens()
    from transformers.cli.transformers import main as cli

    sys.argv = ["transformers", "serve", *words, *dtype_words(own.saved, words)]
    cli()


def _listen_on(socket: str) -> None:
    import uvicorn

    class OnSocket(uvicorn.Config):
        def __init__(self, app: Any, **_: Any) -> None:
            super().__init__(app, uds=socket, log_level="warning", access_log=False)
            # The model is loaded. What lives as long as the process is not to be searched for
            # garbage: that halts all requests for some 0.2 s.
            gc.collect()
            gc.freeze()

    uvicorn.Config = OnSocket  # type: ignore[assignment,misc]


def _bar_first(token: int) -> None:
    """Let continuous batching mask a token where a suppressed request's first one is chosen."""
    import torch
    from transformers.generation.continuous_batching import cb_logits_processors as batching

    class FirstToken(batching.ContinuousBatchingLogitsProcessor):
        supported_kwargs: ClassVar[dict[str, type]] = {}
        ignored_kwargs = ()

        def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
            int32_tensor.zero_()

        def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
            barred = [is_first(request.state) for request in requests_with_new_token]
            return torch.tensor(barred, dtype=torch.int32)

        def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
            barred = tensor_arg[: scores.size(0)].bool()
            scores[:, token] = scores[:, token].masked_fill(barred, float("-inf"))
            return scores

    made = batching.ContinuousBatchingLogitsProcessorList.__init__

    def with_first(self: Any, *words: Any, **more: Any) -> None:
        made(self, *words, **more)
        self.logits_processor.append(FirstToken())
        self.tensors_required += 1
        self.do_processing = True

    batching.ContinuousBatchingLogitsProcessorList.__init__ = with_first


def hide_control_tokens() -> None:
    """Let replies be made of the tokens whose text an evaluation reads, whole and streamed.

    With a response template the server decodes control tokens as text.
    """
    from transformers.cli.serving import chat_completion, utils

    begin, parse = utils.CBGenerateManager.generate_streaming, utils.parse_assistant_message

    def begun(self: Any, model: Any, processor: Any, *words: Any, **more: Any) -> Any:
        queue, streamer = begin(self, model, processor, *words, **more)
        # No token has come yet: they are handed over by the loop that runs this.
        streamer._decode_stream = ShownTokens(streamer._decode_stream, hidden(model, processor))
        return queue, streamer

    def parsed(processor: Any, model: Any, ids: Any, *words: Any, **more: Any) -> Any:
        left_out = hidden(model, processor)
        return parse(processor, model, [n for n in ids if n not in left_out], *words, **more)

    utils.CBGenerateManager.generate_streaming = begun
    chat_completion.parse_assistant_message = parsed


class ShownTokens:
    """A stream of tokens to text that leaves tokens out.

    Args:
        stream: Stream of the tokenizers library.
        hidden: Ids of the tokens that are left out.
    """

    def __init__(self, stream: Any, hidden: Set[int]) -> None:
        self._stream, self._hidden = stream, hidden

    def step(self, tokenizer: Any, token: int) -> str | None:
        """Return the text that a token completes, if any."""
        if token in self._hidden:
            return None
        found: str | None = self._stream.step(tokenizer, token)
        return found


def hidden(model: Any, processor: Any) -> Set[int]:
    """Return the tokens that a reply does not show: control tokens but markers, and ends."""
    key = id(model)
    if key not in _hidden_of:
        from tbr_lightning.data.chat_template import control_ids
        from tbr_lightning.data.think_format import ThinkFormat

        tokenizer = getattr(processor, "tokenizer", processor)
        found, ends = ThinkFormat.saved(model.config).hidden_ids(tokenizer), _ends(model)
        _hidden_of[key] = found | ends.difference(control_ids(tokenizer))
    return _hidden_of[key]


def _ends(model: Any) -> set[int]:
    found = model.generation_config.eos_token_id
    return set(found) if isinstance(found, list) else {found} - {None}


_hidden_of: dict[int, Set[int]] = {}  # by the model's identity: an engine has one


def is_first(state: Any) -> bool:
    """Return whether a suppressed request's first token comes next.

    A request that gave way to others comes back with what it wrote as a part of its prompt.
    """
    return bool(
        state.request_id.endswith(SUPPRESSED)
        and not state.generated_tokens
        and not state._true_initial_tokens
    )


def dtype_words(saved: str, words: Sequence[str]) -> list[str]:
    """Return the arguments that set the type in which the engine computes.

    Left to itself it takes that of the weights, which a processor without units for it emulates,
    many times slower.

    Args:
        saved: Type of the saved weights; empty if it is unknown, which is left to the engine.
        words: The engine's other arguments; a type that they name stays.
    """
    if not saved or any(word.partition("=")[0] == "--dtype" for word in words):
        return []
    return ["--dtype", computed_in(saved)]


def cache_words(config: Mapping[str, Any], memory: int | None = None) -> list[str]:
    """Return the arguments that set the size of the cache on a CPU.

    Args:
        config: Contents of the model's ``config.json``.
        memory: Memory of the machine in bytes; ``None`` to ask the system.
    """
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or 1
    size = config.get("head_dim") or config.get("hidden_size", 0) // (
        config.get("num_attention_heads") or 1
    )
    # Keys and values of every layer, and the block's columns of the attention mask.
    block = _PAGE * _WIDTH * (2 * (config.get("num_hidden_layers") or 1) * heads * size + _BATCH)
    wanted = _SLOTS * math.ceil((config.get("max_position_embeddings") or 4096) / _PAGE)
    budget = (memory or psutil.virtual_memory().total) * _SHARE
    blocks = max(4, min(wanted, int(budget // block)))
    return ["--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", str(_BATCH)]


def compute_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that leave a core for reading requests and writing replies.

    Args:
        environment: Environment of the engine; a number of threads set there stays.
    """
    if "OMP_NUM_THREADS" in environment:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, cores() - 1))}


if __name__ == "__main__":
    main(sys.argv[1:])
