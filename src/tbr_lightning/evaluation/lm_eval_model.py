"""Our decoder as a model of EleutherAI's harness, so that its tasks run at our speed.

Source:
    Gao et al., A framework for few-shot language model evaluation, Zenodo, 2024.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tbr_lightning.data.chat_template import rendered
from tbr_lightning.errors import UserError
from tbr_lightning.models.architecture import context_length
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.generation import generate
from tbr_lightning.models.likelihood import Continuation, log_likelihoods
from tbr_lightning.progress import track

UNASKED = (float("nan"), False)
"""Score of a request that is longer than the model's context."""


class EngineLM(TemplateLM):
    """A model of ours behind the interface of the harness.

    Texts become tokens as in the harness' own ``hf`` model, so that both score the same tokens. A
    request that does not fit into the context is not cut from the left, as there, but not asked.

    Attributes:
        unasked: Task and document number of each generation request that was not asked.
    """

    def __init__(self, backbone: Backbone, batch_size: int | None = None) -> None:
        super().__init__()
        self.backbone, self.batch_size = backbone, batch_size
        self.tokenizer = backbone.tokenizer
        self.max_length = context_length(backbone.model.config.get_text_config())
        self.unasked: set[tuple[str, int]] = set()

    @property
    def eot_token_id(self) -> int:
        """Id of the tokenizer's end token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Id of the token before a text without context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the tokens of a text; one that begins with the begin token gets no second."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return messages in the model's template; without a prompt the last one is continued."""
        if add_generation_prompt:
            return rendered(self.tokenizer, chat_history)
        text: str = self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, continue_final_message=True
        )
        return text

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        # Where the template has opened a think block, the answer comes after its end.
        opened = self.backbone.think_format.think_open.strip()
        if self.backbone.think_format.opened and context.rstrip().endswith(opened):
            context += self.backbone.think_format.without
        found: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
        return found

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding writes it."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        results = [UNASKED] * len(requests)
        places, pairs = [], []
        for place, (_texts, context, continuation) in enumerate(requests):
            if not continuation:  # nothing is left to score, and it is certain
                results[place] = (0.0, True)
            elif len(context) + len(continuation) <= self.max_length + 1:  # the last is not read
                places.append(place)
                pairs.append(Continuation(tuple(context), tuple(continuation)))
        model, pad = self.backbone.model, self.tokenizer.pad_token_id
        scored = log_likelihoods(model, pairs, pad, self.batch_size)
        for number, score in track(scored, "general tasks", len(pairs)):
            results[places[number]] = score
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, in windows of the model's context."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            cut = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            for window in cut:
                windows.append((None, *make_disjoint_window(window)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, (total, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += total
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what the model answers, without its think block, up to the first stop text."""
        answers = [""] * len(requests)
        for (limit, temperature, until, seed), numbers in _alike(requests).items():
            prompts = [self.tok_encode(requests[number].args[0]) for number in numbers]
            asked = []
            for number, prompt in zip(numbers, prompts, strict=True):
                if len(prompt) + limit <= self.max_length:
                    asked.append((number, prompt))
                else:
                    self.unasked.add((requests[number].task_name, requests[number].doc_id))
            made = generate(
                self.backbone,
                [prompt for _, prompt in asked],
                max_new_tokens=limit,
                batch_size=self.batch_size,
                temperature=temperature,
                seed=seed,
                ends=self._ends(until),
            )
            for place, response in track(made, "general tasks", len(asked)):
                answers[asked[place][0]] = self._cut(response.text, until)
        return answers

    def _cut(self, text: str, until: Sequence[str]) -> str:
        reflection, answer = self.backbone.think_format.split(text)
        # Without a think block the text stays as it is, blanks at its ends too.
        answer = text if reflection is None else answer
        for stop in until:
            answer = answer.split(stop)[0]
        return answer

    def _ends(self, until: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        """Return a test of new tokens: whether a stop text occurs in the answer.

        The last tokens are looked at first: as many as the longest stop text has bytes, and more.
        """
        tail = max((len(stop.encode()) for stop in until), default=0) + 4

        def ends(made: Sequence[int]) -> bool:
            late = self.tokenizer.decode(made[-tail:], skip_special_tokens=True)
            if not any(stop in late for stop in until):
                return False
            think_format = self.backbone.think_format
            _, answer = think_format.split(think_format.decoded(self.tokenizer, made))
            return any(stop in answer for stop in until)

        return ends


Settings = tuple[int, float, tuple[str, ...], int]
"""Token limit, temperature, stop texts and seed of a request."""

_HONOURED = {"until", "max_gen_toks", "temperature", "do_sample", "top_p", "top_k"}
_WHOLE = {"top_p": (None, 1, 1.0), "top_k": (None, 0, -1)}
"""Values that cut nothing off the distribution that is sampled from."""


def _alike(requests: Sequence[Instance]) -> dict[Settings, list[int]]:
    """Return the numbers of the requests by their settings.

    A task that samples one question several times lists the same request as often: each time has a
    seed of its own, or all its samples would be one.

    Raises:
        UserError: A task samples in a way that our decoder does not.
    """
    found: dict[Settings, list[int]] = defaultdict(list)
    times: Counter[int] = Counter()
    for number, request in enumerate(requests):
        settings: Any = normalize_gen_kwargs(request.args[1])
        _check_sampling(request.task_name, settings)
        until = tuple(stop for stop in settings["until"] if stop)
        temperature = float(settings.get("temperature") or 0.0)
        found[settings["max_gen_toks"], temperature, until, times[id(request)]].append(number)
        times[id(request)] += 1
    return found


def _check_sampling(task: str | None, settings: Mapping[str, Any]) -> None:
    if not settings.get("temperature"):
        return  # greedy, whatever else is set
    for name, value in settings.items():
        if name not in _HONOURED or value not in _WHOLE.get(name, (value,)):
            raise UserError(
                f"suite.lm_eval: {task} samples with {name}={value}, which this decoder does not: "
                "leave it out, or run lm_eval"
            )
