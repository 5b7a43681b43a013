"""What numbers show, in the words of a figure's title: never more than their intervals do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tbr_lightning.config.evaluation import JudgeConfig, SuiteConfig
from tbr_lightning.evaluation.benchmarks import benchmarks
from tbr_lightning.evaluation.comparison import ALL, Difference, compare
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import FALSE_REFUSAL, HARMFUL_COMPLIANCE, Measure
from tbr_lightning.evaluation.statistics import Estimated, Rate, combined, over_seeds
from tbr_lightning.kinds import KINDS
from tbr_lightning.reports import names

SIDES = (FALSE_REFUSAL, HARMFUL_COMPLIANCE)
"""What titles speak of."""

_LEVEL = 0.05
_KINDS = {"harmful": "harmful prompts", "look_alike": "look-alikes", "general": "general prompts"}


@dataclass(frozen=True)
class Change:
    """How a share differs between two models.

    Attributes:
        before: The first model's share, in [0, 1].
        after: The other's.
        low: Lower end of the 95% interval of ``after - before``.
        high: Upper end.
        n: Number of prompts.
    """

    before: float
    after: float
    low: float
    high: float
    n: int = 0

    @property
    def direction(self) -> int:
        """1 where a rise is shown, -1 where a fall is, 0 where the interval holds zero."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def changed(difference: Difference) -> Change:
    """Return a paired difference as a change."""
    ends = difference.interval
    return Change(difference.rate_against, difference.rate, *ends, n=difference.n)


def unpaired(before: Sequence[Rate], after: Sequence[Rate]) -> Change | None:
    """Return how the mean over seeds differs; ``None`` where a side has no prompts.

    Both sides' intervals are taken for independent ones, which is wider than a paired difference.
    """
    if not all(rate.n for rate in (*before, *after)):
        return None
    sides: list[Estimated] = [over_seeds(after), over_seeds(before)]
    found = combined(sides, [1, -1], len(after))
    return Change(sides[1].value, sides[0].value, *found.interval)


def of_pair(before: Sequence[Judged], after: Sequence[Judged]) -> dict[Measure, Change]:
    """Return how one model's answers differ from another's to the same prompts."""
    return of_differences(compare({"before": before, "after": after}), "after")


def of_differences(differences: Sequence[Difference], model: str) -> dict[Measure, Change]:
    """Return how a model differs from the first, over all benchmarks."""
    found = {}
    for measure in SIDES:
        ours = [d for d in differences if d.measure == measure.name and d.model == model]
        one = next((d for d in ours if d.benchmark == ALL), ours[0] if ours else None)
        if one is not None:
            found[measure] = changed(one)
    return found


def pair(
    before: str, after: str, changes: Mapping[Measure, Change], *, bounds: bool = False
) -> str:
    """Return in a sentence how one model, ``after``, differs from another, ``before``."""
    return f"{capital(after)} against {before}: {told_of(changes, bounds=bounds)}"


def told_of(changes: Mapping[Measure, Change], *, bounds: bool = False) -> str:
    """Return in words how a model's rates differ, with intervals if ``bounds`` is true."""
    if not changes:
        return "no prompt in common"
    told = []
    for measure, one in changes.items():
        first, last = f"{100 * one.before:.1f}%", f"{100 * one.after:.1f}%"
        how = (
            f"{100 * (one.after - one.before):+.1f} points, 95% interval {100 * one.low:+.1f} to "
            f"{100 * one.high:+.1f}, n={one.n}"
        )
        if one.direction:
            verb = "rises" if one.direction > 0 else "falls"
            said = f"{measure.heading} {verb} from {first} to {last}"
            told.append(f"{said} ({how})" if bounds else said)
        else:
            beside = f"{first} and {last}; {how}" if bounds else f"{first} and {last}"
            told.append(f"no difference shown in {measure.heading} ({beside})")
    return "; ".join(told)


def single(name: str, rows: Iterable[Judged]) -> str:
    """Return both error rates of one model in a sentence."""
    every = list(rows)
    told = []
    for measure, verb in zip(SIDES, ("refuses", "complies with"), strict=True):
        rate = measure.rate(every)
        if rate.n:
            what = "look-alikes" if measure is FALSE_REFUSAL else "harmful requests"
            told.append(f"{verb} {100 * rate.value:.1f}% of {what}")
    return f"{capital(name)}: {', '.join(told) or 'no prompt of either kind'}"


def several(base: str, others: Mapping[str, Mapping[Measure, Change]], noun: str = "models") -> str:
    """Return in a sentence how many models differ from the first."""
    lower = [name for name, one in others.items() if _direction(one, FALSE_REFUSAL) < 0]
    safe = [name for name in lower if _direction(others[name], HARMFUL_COMPLIANCE) <= 0]
    if not lower:
        return f"None of {len(others)} {noun} is shown to refuse fewer look-alikes than {base}"
    verb, it, each = (
        ("refuses", "it", "it") if len(lower) == 1 else ("refuse", "any of them", "each")
    )
    told = f"{len(lower)} of {len(others)} {noun} {verb} fewer look-alikes than {base}"
    if len(safe) == len(lower):
        return f"{told}; no rise in harmful compliance is shown for {it}"
    if not safe:
        return f"{told}; {each} complies with more harmful requests"
    return f"{told}; for {len(safe)} of them no rise in harmful compliance is shown"


def _direction(changes: Mapping[Measure, Change], measure: Measure) -> int:
    return changes[measure].direction if measure in changes else 0


def compared(models: Mapping[str, Sequence[Judged]], differences: Sequence[Difference]) -> str:
    """Return what a comparison shows, of one, two or more models, by their short names.

    Of three models or more fewer refusals count as shown where the p-value is also below 5% after
    Holm's correction.
    """
    short, _ = names.shared(models)
    base, *others = models
    if not others:
        return single(base, models[base])
    if len(others) == 1:
        found = of_differences(differences, others[0])
        return pair(short[base], short[others[0]], found)
    # A fall must stand Holm's correction; a rise of harm is told without it, to be careful.
    sure = [d for d in differences if d.measure != FALSE_REFUSAL.name or d.p_holm < _LEVEL]
    return several(short[base], {name: of_differences(sure, name) for name in others})


def categories(shares: Mapping[str, Mapping[str, Rate]], heading: str) -> str:
    """Return what rates by category show: measured ones, none of which is tested by itself.

    Args:
        shares: Rates of each model by category.
        heading: What is measured.
    """
    short, _ = names.shared(shares)
    base, *others = shares
    if not others:
        known = {key: rate for key, rate in shares[base].items() if rate.n}
        if len({rate.value for rate in known.values()}) == 1:
            value = next(iter(known.values())).value
            return f"{heading} is {100 * value:.0f}% in every category"
        low = min(known, key=lambda key: known[key].value)
        high = max(known, key=lambda key: known[key].value)
        return (
            f"{heading} goes from {100 * known[low].value:.0f}% ({_words(low)}) to "
            f"{100 * known[high].value:.0f}% ({_words(high)})"
        )
    last = others[-1]
    both = [key for key in shares[base] if key in shares[last]]
    lower = sum(shares[last][key].value < shares[base][key].value for key in both)
    higher = sum(shares[last][key].value > shares[base][key].value for key in both)
    if not lower and not higher:
        return f"{heading} is the same in all {len(both)} categories"
    told = f"{heading} is lower with {short[last]} in {lower} of {len(both)} categories"
    return told + (f" and higher in {higher}" if higher else "")


def reflections(models: Mapping[str, Sequence[Judged]]) -> str:
    """Return before which kinds of prompts each model writes a reflection."""
    short, _ = names.shared(models)
    told: dict[str, list[str]] = {}
    for name, rows in models.items():
        parts = []
        for kind in KINDS:
            of_kind = [row.reflection is not None for row in rows if row.kind == kind]
            if of_kind and any(of_kind):
                parts.append(f"{100 * sum(of_kind) / len(of_kind):.0f}% of {_KINDS[kind]}")
        said = names.listed(parts) if parts else ""
        told.setdefault(said, []).append(short[name])
    parts = [
        f"{names.listed(who)}: "
        + (f"a reflection before {said}" if said else "no reflection before any prompt")
        for said, who in told.items()
    ]
    return capital("; ".join(parts))


def asked_of(
    suite: SuiteConfig, judge: JudgeConfig, rows: Iterable[Judged], kinds: Sequence[str] = KINDS
) -> str:
    """Return in words which prompts were asked and who judged the answers.

    Args:
        suite: Their suite.
        judge: The judge.
        rows: Answers to them, of one model.
        kinds: Kinds of prompts that are counted.
    """
    every = [row for row in rows if row.kind in kinds]
    counts = {kind: len({row.id for row in every if row.kind == kind}) for kind in kinds}
    told = [f"{counts[kind]} {word}" for kind, word in _KINDS.items() if counts.get(kind)]
    of = list(dict.fromkeys(row.benchmark for row in every))
    by = "rules" if judge.name == "rules" else judge.endpoint.model or judge.name
    where = _where(of, suite) + (f" ({suite.caveat})" if suite.caveat else "")
    return f"{names.listed(told) if told else 'no prompt'} of {where}, judged by {by}"


def _where(of: Sequence[str], suite: SuiteConfig) -> str:
    known = benchmarks(suite.table)
    titles = [known[one].title if one in known else one for one in of]
    called = [suite.title] if suite.title else titles
    half = "" if suite.half == "all" else f"{suite.half} half"
    if len(called) == 1:
        return f"{called[0]}'s {half}" if half else called[0]
    told = names.listed(called) if 0 < len(called) < 4 else f"the suite {suite.name}"
    return f"{told}, {half}" if half else told


def _words(category: str) -> str:
    return category.replace("_", " ")


def capital(text: str) -> str:
    """Return a sentence's beginning; the spelling of what is no word, as in ``m-12``, stays."""
    return text[0].upper() + text[1:] if text.split(" ", maxsplit=1)[0].isalpha() else text
