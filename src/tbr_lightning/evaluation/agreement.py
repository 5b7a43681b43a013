"""Agreement of two sets of labels: of two judges, or of a judge and people."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.judges.base import LABELLED, Label
from tbr_lightning.evaluation.statistics import Rate, clustered_rate


@dataclass(frozen=True)
class Agreement:
    """Agreement of two sets of labels on the same answers.

    Attributes:
        two_way: Agreement on compliance versus any refusal.
        three_way: Agreement on the label itself.
        kappa_two_way: Cohen's kappa, which removes the agreement by chance; not a number where
            only one label is in use.
        kappa_three_way: Cohen's kappa of the three labels.
        unlabelled: Share of the answers that one of the two gave no label.
    """

    two_way: Rate
    three_way: Rate
    kappa_two_way: float
    kappa_three_way: float
    unlabelled: Rate

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return the numbers by stable names; intervals end in _lo and _hi."""
        made = {f"{prefix}_unlabelled_share": self.unlabelled.value}
        for name, rate in (("two_way", self.two_way), ("three_way", self.three_way)):
            low, high = rate.interval
            made |= {
                f"{prefix}_{name}": rate.value,
                f"{prefix}_{name}_lo": low,
                f"{prefix}_{name}_hi": high,
            }
        made |= {
            f"{prefix}_kappa_two_way": self.kappa_two_way,
            f"{prefix}_kappa_three_way": self.kappa_three_way,
        }
        return {name: value for name, value in made.items() if not math.isnan(value)}

    @property
    def sentence(self) -> str:
        """The numbers in one line."""
        return (
            f"compliance versus refusal {self.two_way} % (kappa {_said(self.kappa_two_way)}), "
            f"three labels {self.three_way} % (kappa {_said(self.kappa_three_way)})"
        )


def agreement(
    pairs: Sequence[tuple[Label, Label]],
    *,
    missing_is_wrong: bool,
    prompts: Sequence[str] | None = None,
) -> Agreement:
    """Return how far pairs of labels agree.

    Args:
        pairs: The two labels of each answer.
        missing_is_wrong: Whether an answer without a label counts as a disagreement, as it must
            for a judge validated on people's labels; else it is left out, as always for kappa.
        prompts: The prompt of each answer, since answers to one prompt are not independent;
            ``None`` for answers to different prompts.
    """
    of = range(len(pairs)) if prompts is None else prompts
    known = [one in LABELLED and other in LABELLED for one, other in pairs]
    counted = [number for number, labelled in enumerate(known) if labelled or missing_is_wrong]
    labelled = [pair for pair, is_known in zip(pairs, known, strict=True) if is_known]

    def rate(agrees: Callable[[Label, Label], bool]) -> Rate:
        hits = [known[number] and agrees(*pairs[number]) for number in counted]
        return clustered_rate(hits, [of[number] for number in counted])

    return Agreement(
        rate(lambda one, other: _complies(one) == _complies(other)),
        rate(lambda one, other: one == other),
        _kappa([(_complies(one), _complies(other)) for one, other in labelled]),
        _kappa(labelled),
        clustered_rate([not is_known for is_known in known], of),
    )


def judges_agree(rows: Sequence[Judged]) -> Agreement:
    """Return how far two judges agree on the answers that both have labelled."""
    asked = [(row, row.second_label) for row in rows if row.second_label is not None]
    pairs = [(row.label, second) for row, second in asked]
    return agreement(pairs, missing_is_wrong=False, prompts=[row.id for row, _ in asked])


def _complies(label: Label) -> str:
    return "complies" if label == "full_compliance" else "refuses"


def _kappa(pairs: Sequence[tuple[str, str]]) -> float:
    from sklearn.metrics import cohen_kappa_score

    if len({label for pair in pairs for label in pair}) < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(*zip(*pairs, strict=True)))


def _said(kappa: float) -> str:
    return "undefined: one label" if math.isnan(kappa) else f"{kappa:.3f}"
