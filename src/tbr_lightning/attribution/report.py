"""``evaluate attribution=true``: what drove the false refusals of an evaluation, and the swap."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl

from tbr_lightning.attribution.gradients import Attribution, attribute
from tbr_lightning.attribution.words import SWAPS, sensitive_share, sensitive_spans, swapped
from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.data.think_format import think_block
from tbr_lightning.evaluation.respond import EvaluatedModel, load_model, respond
from tbr_lightning.evaluation.results import Judged
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.progress import track
from tbr_lightning.tracking.run import Run

mpl.use("Agg")  # figures are files here; no display is needed

FIGURE = "attribution.png"
_SHOWN = 12  # prompts in the figure


@dataclass(frozen=True)
class Explained:
    """One explained false refusal.

    Attributes:
        found: Attribution scores of its words.
        spans: Spans of the sensitive words.
        share: Share of the sensitive words in all scores.
        share_other: Their share in the other model; ``None`` without one.
        swap: The prompt with neutral words; ``None`` if nothing in it is sensitive.
        swap_refused: Whether that was refused too; ``None`` if not asked or not judged.
    """

    found: Attribution
    spans: list[tuple[int, int]]
    share: float
    share_other: float | None
    swap: str | None
    swap_refused: bool | None


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
        share_other = None
        if other is not None:
            again = attribute(other, prompt.text, _between(other, others[n]), _refusal(row))
            share_other = sensitive_share(again, spans)
        share = sensitive_share(found, spans)
        hit = swap_refused.get(text) if text else None
        explained.append(Explained(found, spans, share, share_other, text, hit))
    return explained


def log(
    subject: EvaluatedModel,
    prompts: Sequence[Prompt],
    rows: Sequence[Judged],
    config: EvaluateConfig,
    run: Run,
) -> None:
    """Explain the false refusals of an evaluation on its run."""
    against = config.attribution_against
    dtype = config.generation.dtype
    other = load_model(against, config.paths, dtype=dtype).backbone if against else None
    explained = explain(subject.backbone, prompts, rows, config, other)
    model_id = subject.logged.model_id if subject.logged else None
    shares = ("attribution/sensitive_share", "attribution/swap_refusal_rate")
    run.log_numbers(numbers(explained), shares, model_id)
    if explained:
        run.log_table(table_rows(explained), "attribution.json")
        run.log_text(page(explained), "attribution.html")
        run.log_figure(figure(explained, f"{subject.name} on {config.suite.name}"), FIGURE)


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


def _strengths(found: Attribution) -> list[float]:
    largest = max((abs(word.score) for word in found.words), default=0.0) or 1.0
    return [word.score / largest for word in found.words]


def page(explained: Sequence[Explained]) -> str:
    """Return an HTML page: words towards the refusal red, against it blue, sensitive underlined."""
    lines = []
    for one in explained:
        words = []
        for word, strength in zip(one.found.words, _strengths(one.found), strict=True):
            colour = "214,39,40" if strength > 0 else "31,119,180"
            marked = any(word.start < high and low < word.end for low, high in one.spans)
            style = f"background:rgba({colour},{abs(strength) * 0.8:.2f})"
            style += ";text-decoration:underline" if marked else ""
            words.append(
                f'<span style="{style}" title="{word.score:+.3f}">{html.escape(word.text)}</span>'
            )
        refusal = html.escape(one.found.refusal)
        lines.append(f"<p>{' '.join(words)}<br><small>{refusal}</small></p>")
    about = (
        "Integrated gradients of the refusal's log-probability. Red words drive the refusal, blue "
        "ones speak against it; sensitive words are underlined; hover for the score."
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Attribution</title>'
        '<body style="font:16px/1.7 sans-serif;max-width:50em;margin:2em auto">'
        f"<p><small>{about}</small></p>{''.join(lines)}</body></html>"
    )


def figure(explained: Sequence[Explained], title: str) -> Any:
    """Return a matplotlib figure of the first prompts, coloured as :func:`page` colours them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = explained[:_SHOWN]
    drawing = Figure(figsize=(9, 0.9 + 0.42 * max(len(shown), 1)), dpi=120)
    axes = drawing.subplots()
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylim(-len(shown) + 0.5, 0.5)
    renderer = FigureCanvasAgg(drawing).get_renderer()
    for line, one in enumerate(shown):
        x = 0.0
        for word, strength in zip(one.found.words, _strengths(one.found), strict=True):
            marked = any(word.start < high and low < word.end for low, high in one.spans)
            colour = "tab:red" if strength > 0 else "tab:blue"
            text = axes.text(
                x,
                -line,
                # A dollar would begin a formula.
                word.text.replace("$", r"\$"),
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=9,
                fontweight="bold" if marked else "normal",
                bbox={"facecolor": (colour, 0.7 * abs(strength)), "linewidth": 0, "pad": 2},
            )
            width = text.get_window_extent(renderer).width / axes.bbox.width
            x += width + 0.012
    return drawing
