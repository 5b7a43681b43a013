"""Multiple choice by likelihood: the option that a model finds likeliest after the chat prompt.

An option's score is the summed log-likelihood of its tokens, as in the harness of Gao et al.
(A framework for few-shot language model evaluation, Zenodo, 2024); the normalised score divides it
by the option's UTF-8 bytes, so that a short option has no head start. The prompt is read once for
all its options. The think block is skipped: the answer is scored where the assistant's turn begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tbr_lightning.data.think_format import prompt_ids
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.statistics import Rate
from tbr_lightning.models.backbone import Backbone


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        task: What it belongs to.
        text: The user's turn.
        options: The answers to choose from, as the assistant would write them.
        right: Index of the right one.
    """

    task: str
    text: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True, slots=True)
class Scored:
    """A question and how likely the model finds each option.

    Attributes:
        question: It.
        scores: Summed log-likelihood of each option.
    """

    question: Question
    scores: tuple[float, ...]

    @property
    def chosen(self) -> int:
        """The likeliest option; the first of equals."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def chosen_by_byte(self) -> int:
        """The option that is likeliest per byte."""
        sizes = [len(option.encode()) or 1 for option in self.question.options]
        return max(range(len(sizes)), key=lambda n: self.scores[n] / sizes[n])

    @property
    def right(self) -> bool:
        """The likeliest option is the right one."""
        return self.chosen == self.question.right


def accuracies(rows: Sequence[Scored]) -> dict[str, Rate]:
    """Return the accuracy of each task, and ``TASK_norm`` by the score per byte."""
    found: dict[str, Rate] = {}
    for task in dict.fromkeys(row.question.task for row in rows):
        of_task = [row for row in rows if row.question.task == task]
        by_byte = sum(row.chosen_by_byte == row.question.right for row in of_task)
        found[task] = Rate(sum(row.right for row in of_task), len(of_task))
        found[f"{task}_norm"] = Rate(by_byte, len(of_task))
    return found


def score(
    backbone: Backbone, questions: Sequence[Question], batch_size: int
) -> Iterator[tuple[int, Scored]]:
    """Yield (number of the question, its scores), batch by batch.

    Args:
        backbone: The model.
        questions: To answer.
        batch_size: Options that are scored together, at most; a question's are never parted.

    Raises:
        UserError: A question is longer than the model's context.
    """
    tokenizer = backbone.tokenizer
    prompts = [prompt_ids(tokenizer, question.text) for question in questions]
    options = [
        [list(tokenizer.encode(o, add_special_tokens=False)) for o in question.options]
        for question in questions
    ]
    _check_lengths(backbone, questions, prompts, options)
    # The cache is repeated once per option, so questions of a batch have equally many.
    order = sorted(range(len(questions)), key=lambda n: (len(options[n]), len(prompts[n])))
    batch: list[int] = []
    for number in order:
        many = len(options[number])
        if batch and (len(options[batch[0]]) != many or (len(batch) + 1) * many > batch_size):
            yield from _scored(backbone, questions, prompts, options, batch)
            batch = []
        batch.append(number)
    if batch:
        yield from _scored(backbone, questions, prompts, options, batch)


def _scored(
    backbone: Backbone,
    questions: Sequence[Question],
    prompts: list[list[int]],
    options: list[list[list[int]]],
    batch: list[int],
) -> Iterator[tuple[int, Scored]]:
    many = len(options[batch[0]])
    flat = [option for number in batch for option in options[number]]
    sums = _log_likelihoods(backbone, [prompts[number] for number in batch], flat, many)
    for line, number in enumerate(batch):
        yield number, Scored(questions[number], tuple(sums[line * many : (line + 1) * many]))


@torch.inference_mode()
def _log_likelihoods(
    backbone: Backbone, prompts: list[list[int]], options: list[list[int]], many: int
) -> list[float]:
    """Return the summed log-likelihood of each option, ``many`` in a row for each prompt."""
    model, pad = backbone.model, backbone.tokenizer.pad_token_id
    device = model.device
    # Left padding puts each prompt's last token, after which every option begins, in one column.
    ids, mask = _padded(prompts, pad, left=True)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    seen = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=places.to(device),
        use_cache=True,
    )
    first = seen.logits[:, -1:].float().repeat_interleave(many, dim=0)
    targets, given = _padded(options, pad, left=False)
    targets, given = targets.to(device), given.to(device)
    logits = first
    if targets.shape[1] > 1:
        cached = seen.past_key_values
        cached.batch_repeat_interleave(many)
        before = mask.repeat_interleave(many, dim=0).to(device)
        starts = mask.sum(1).repeat_interleave(many).to(device)
        rest = model(
            input_ids=targets[:, :-1],
            attention_mask=torch.cat([before, given[:, :-1]], dim=1),
            position_ids=starts[:, None] + torch.arange(targets.shape[1] - 1, device=device),
            past_key_values=cached,
            use_cache=True,
        )
        logits = torch.cat([first, rest.logits.float()], dim=1)
    likely = logits.log_softmax(-1).gather(2, targets[:, :, None]).squeeze(2)
    sums: list[float] = (likely * given).sum(1).tolist()
    return sums


def _padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[line, where], mask[line, where] = torch.tensor(row), 1
    return ids, mask


def _check_lengths(
    backbone: Backbone,
    questions: Sequence[Question],
    prompts: list[list[int]],
    options: list[list[list[int]]],
) -> None:
    context = getattr(backbone.model.config, "max_position_embeddings", None)
    for question, prompt, answers in zip(questions, prompts, options, strict=True):
        length = len(prompt) + max(map(len, answers))
        if context is not None and length > context:
            raise UserError(
                f"suite.choices: a question of {question.task} has {length} tokens and the model's "
                f"context {context}: leave {question.task} out"
            )
