"""``evaluate attribution=true``: what drove the false refusals of an evaluation, and the swap."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tbr_lightning.attribution import figure
from tbr_lightning.attribution.gradients import Attribution, attribute
from tbr_lightning.attribution.words import SWAPS, sensitive_share, sensitive_spans, swapped
from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.data.think_format import think_block
from tbr_lightning.evaluation.findings import asked_of, capital
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.respond import EvaluatedModel, load_model, respond
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.progress import track
from tbr_lightning.reports import style
from tbr_lightning.reports.page import Drawn
from tbr_lightning.tracking.run import Run

FIGURE = "attribution.png"


@dataclass(frozen=True)
class Explained:
    """One explained false refusal.

    Attributes:
        found: Attribution scores of its words.
        spans: Spans of the sensitive words.
        share: Share of the sensitive words in all scores.
        other: Scores of the same sentence by the other model; ``None`` without one.
        share_other: Share of the sensitive words in those.
        other_refused: Whether the other model refused the prompt too; ``None`` if unknown.
        swap: The prompt with neutral words; ``None`` if nothing in it is sensitive.
        swap_refused: Whether that was refused too; ``None`` if not asked or not judged.
    """

    found: Attribution
    spans: list[tuple[int, int]]
    share: float
    swap: str | None
    swap_refused: bool | None
    other: Attribution | None = None
    share_other: float | None = None
    other_refused: bool | None = None


def explain(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    rows: Sequence[Judged],
    config: EvaluateConfig,
    other: Backbone | None = None,
) -> list[Explained]:
    """Explain the first false refusals of an evaluation.

    The refusal is scored where the model gave it: after its own reflection, if it wrote one. The
    other model is asked the same prompts; after its own reflection the same sentence is scored.
    """
    swaps = {**SWAPS, **config.attribution_swaps}
    refused = [
        (prompt, row)
        for prompt, row in zip(prompts, rows, strict=True)
        if row.kind == "look_alike" and row.refused
    ][: config.attribution_prompts]
    asked = [prompt for prompt, _ in refused]
    texts = [swapped(prompt, swaps) for prompt in asked]
    tried = [
        replace(prompt, text=text, reference="")
        for prompt, text in zip(asked, texts, strict=True)
        if text is not None and text != prompt.text
    ]
    answers = respond(backbone, tried, config.judge, config.generation, "swap test")
    swap_refused = {row.prompt: row.refused if row.parsed else None for row in answers}
    others = respond(other, asked, config.judge, config.generation, "other model") if other else []
    explained = []
    numbered = enumerate(zip(refused, texts, strict=True))
    for n, ((prompt, row), text) in track(numbered, "attribution", len(refused)):
        spans = sensitive_spans(prompt, swaps)
        found = attribute(backbone, prompt.text, _between(backbone, row), _refusal(row))
        share = sensitive_share(found, spans)
        hit = swap_refused.get(text) if text else None
        one = Explained(found, spans, share, text, hit)
        if other is not None:
            again = attribute(other, prompt.text, _between(other, others[n]), _refusal(row))
            said = others[n].refused if others[n].parsed else None
            share_other = sensitive_share(again, spans)
            one = replace(one, other=again, share_other=share_other, other_refused=said)
        explained.append(one)
    return explained


def log(
    subject: EvaluatedModel,
    prompts: Sequence[Prompt],
    rows: Sequence[Judged],
    config: EvaluateConfig,
    run: Run,
) -> list[Drawn]:
    """Explain the false refusals of an evaluation on its run; return the figure for its page."""
    against = config.attribution_against
    other = load_model(against, config.paths, dtype=config.generation.dtype) if against else None
    explained = explain(
        subject.backbone, prompts, rows, config, None if other is None else other.backbone
    )
    model_id = subject.logged.model_id if subject.logged else None
    shares = ("attribution/sensitive_share", "attribution/swap_refusal_rate")
    run.log_numbers(numbers(explained), shares, model_id)
    if not explained:
        return []
    names = [subject.label, *([] if other is None else [other.label])]
    told = sentence(explained)
    drawn = figure.draw(
        [asked(one) for one in explained],
        told,
        names,
        "Integrated gradients of the log-probability of the sentence that refuses, by the prompt's "
        "embeddings. The model after scores the same sentence, behind its own reflection. Swapped: "
        "the model before is asked again with neutral words. Percent: of the sum of all words' "
        "absolute scores, the mean over the prompts. "
        f"{capital(asked_of(config.suite, config.judge, rows, ['look_alike']))}; explained are the "
        f"first {len(explained)} that it refused.",
    )
    run.log_table(table_rows(explained), "attribution.json")
    run.log_text(page(explained, names), "attribution.html")
    run.log_figure(drawn, FIGURE)
    return [Drawn(style.svg(drawn, "attribution"), f"Which words drive the refusals. {told}.")]


def asked(one: Explained) -> figure.Asked:
    """Return what the figure shows of a false refusal."""
    return figure.Asked(
        one.found, one.spans, one.other, one.other_refused, one.swap, one.swap_refused
    )


def sentence(explained: Sequence[Explained]) -> str:
    """Return the sensitive words' part and the swap's result in a line, in percent."""
    found = numbers(explained)
    told = []
    if (share := found.get("attribution/sensitive_share")) is not None:
        other = found.get("attribution/sensitive_share_other")
        after = "" if other is None else f" before and {100 * other:.0f}% after"
        told.append(f"Sensitive words carry {100 * share:.0f}% of all scores{after}")
    tried = [one.swap_refused for one in explained if one.swap_refused is not None]
    if tried:
        told.append(f"with neutral words {sum(tried)} of {len(tried)} prompts are still refused")
    return "; ".join(told) or f"{len(explained)} false refusals, none with a sensitive word"


def _between(backbone: Backbone, row: Judged) -> str:
    return "" if row.reflection is None else think_block(backbone.think_format, row.reflection)


def _refusal(row: Judged) -> str:
    """Return the sentence that refuses: the judge's, if it quotes the answer, else the first."""
    if row.because and row.because in row.answer:
        return row.because
    return re.split(r"(?<=[.!?])\s+|\n+", row.answer.strip())[0]


def numbers(explained: Sequence[Explained]) -> dict[str, float]:
    """Return the aggregates by stable names; none for what was not measured."""
    found: dict[str, float] = {"attribution/prompts": len(explained)}
    marked = [one for one in explained if one.spans]
    parts: Mapping[str, list[float]] = {
        "attribution/sensitive_share": [one.share for one in marked],
        "attribution/sensitive_share_other": [
            one.share_other for one in marked if one.share_other is not None
        ],
        "attribution/swap_refusal_rate": [
            float(one.swap_refused) for one in explained if one.swap_refused is not None
        ],
    }
    found |= {name: sum(part) / len(part) for name, part in parts.items() if part}
    return found


def table_rows(explained: Sequence[Explained]) -> list[dict[str, Any]]:
    """Return one row per prompt, as MLflow's table holds it."""
    return [
        {
            "prompt": one.found.prompt,
            "refusal": one.found.refusal,
            "sensitive": ", ".join(one.found.prompt[low:high] for low, high in one.spans),
            "sensitive_share": one.share,
            "sensitive_share_other": one.share_other,
            "swap": one.swap,
            "swap_refused": one.swap_refused,
            "log_probability_difference": one.found.difference,
            "completeness_error": one.found.error,
            "scores": " ".join(f"{word.text}:{word.score:+.3f}" for word in one.found.words),
        }
        for one in explained
    ]


def page(explained: Sequence[Explained], names: Sequence[str]) -> str:
    """Return an HTML page of every prompt, coloured as the figure, sensitive words underlined."""
    largest = figure.largest_score([asked(one) for one in explained])
    blocks = []
    for one in explained:
        lines = [_line("before", one.found, one, largest, refused=True)]
        if one.other is not None:
            lines.append(_line("after", one.other, one, largest, refused=one.other_refused))
        if one.swap is not None:
            told = figure.outcome(one.swap_refused)
            lines.append(f"<small>swapped:</small> <i>{html.escape(one.swap)}</i> <b>{told}</b>")
        lines.append(f"<small>{html.escape(one.found.refusal)}</small>")
        blocks.append(f"<p>{'<br>'.join(lines)}</p>")
    both = "; ".join(
        f"{word}: {name}" for word, name in zip(("before", "after"), names, strict=False)
    )
    about = (
        "Integrated gradients of the refusal's log-probability. Orange words drive the refusal, "
        f"blue ones speak against it, the fullest colour is {largest:.1f} nats; sensitive words "
        "are underlined; hover for the score."
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>Attribution</title>"
        '<body style="font:16px/1.7 sans-serif;max-width:50em;margin:2em auto;padding:0 1em;'
        'color:#1b1b1b;background:#fff">'
        f"<h1 style='font-size:1.1em'>{html.escape(sentence(explained))}</h1>"
        f"<p><small>{html.escape(both)}. {about}</small></p>{''.join(blocks)}</body></html>"
    )


def _line(
    name: str, found: Attribution, one: Explained, largest: float, *, refused: bool | None
) -> str:
    words = []
    for word in found.words:
        red, green, blue = (round(255 * part) for part in figure.shade(word.score, largest))
        marked = any(word.start < high and low < word.end for low, high in one.spans)
        line = ";text-decoration:underline" if marked else ""
        words.append(
            f'<span style="background:rgb({red},{green},{blue}){line}" title="{word.score:+.3f}">'
            f"{html.escape(word.text)}</span>"
        )
    return f"<small>{name}:</small> {' '.join(words)} <b>{figure.outcome(refused)}</b>"
