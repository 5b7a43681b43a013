"""Paired comparisons against published values, statsmodels, and numbers made by hand."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import figures
from tbr_lightning.evaluation.comparison import (
    as_row,
    compare,
    headline,
    metrics,
    paired_interval,
    paired_p,
)
from tbr_lightning.evaluation.figures import (
    category_figure,
    reflection_figure,
    two_sided_figure,
)
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.report import lines, short_names
from tbr_lightning.evaluation.results import rates
from tbr_lightning.evaluation.statistics import Rate, over_seeds, tango_interval
from tbr_lightning.evaluation.table_export import pasted
from tbr_lightning.evaluation.traces import chosen
from tbr_lightning.reports.plane import pareto_front


def rows(refused: str, benchmark: str = "b", kind: Any = "look_alike", repeat: int = 0) -> Any:
    """Return answers to prompts in order: 1 refused, 0 complied with, ? unparsed."""
    label: dict[str, Any] = {"1": "full_refusal", "0": "full_compliance", "?": "unparsed"}
    return [
        Judged(
            id=f"{benchmark}{number}",
            prompt=f"p{number}",
            kind=kind,
            benchmark=benchmark,
            category="c_1",
            reference="",
            reflection="a b" if mark == "0" else None,
            answer="a",
            label=label[mark],
            because="s",
            right=None,
            new_tokens=3,
            repeat=repeat,
        )
        for number, mark in enumerate(refused)
    ]


def pairs(both: int, first: int, second: int, none: int) -> tuple[list[float], list[float]]:
    a = [1.0] * (both + first) + [0.0] * (second + none)
    b = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * none
    return a, b


def test_the_published_example() -> None:
    # Bentur et al. (2009) as in Fagerland et al. (2014): of 21 pairs 1 and 7 differ; McNemar's
    # exact test gives 0.0703, Tango's interval -0.517 to -0.026.
    a, b = pairs(1, 1, 7, 12)
    assert [round(x, 3) for x in paired_interval(a, b)] == [-0.517, -0.026]
    assert round(paired_p(a, b), 4) == 0.0703


@pytest.mark.parametrize("table", [(101, 59, 121, 33), (10, 0, 6, 4), (5, 3, 3, 5), (9, 0, 0, 9)])
def test_one_answer_a_prompt_is_mcnemar_and_tango(table: tuple[int, int, int, int]) -> None:
    a, b = pairs(*table)
    both, first, second, none = table
    expected = mcnemar([[both, first], [second, none]], exact=True).pvalue
    assert paired_p(a, b) == pytest.approx(min(expected, 1))
    assert paired_interval(a, b) == pytest.approx(tango_interval(first, second, sum(table)))


def test_several_answers_narrow_the_interval_and_never_collapse_it() -> None:
    rng = np.random.default_rng(0)
    share = rng.beta(1, 2, 80)
    five = [rng.binomial(5, share) / 5 for _ in "ab"]
    one = [(rng.random(80) < share).astype(float) for _ in "ab"]
    widths = [high - low for low, high in (paired_interval(*one), paired_interval(*five, 5))]
    assert widths[1] < widths[0]
    assert widths[1] > widths[0] / 5
    assert 0.05 < paired_p(*five) <= 1
    same = [0.6] * 50
    low, high = paired_interval(same, same, 5)
    assert low < 0 < high


def test_the_sign_test_of_repeats_by_hand() -> None:
    # Four prompts, all lower by a half: of 16 sign patterns two are as extreme.
    assert paired_p([0.0] * 4, [0.5] * 4) == pytest.approx(2 / 16)


def test_a_comparison_by_hand() -> None:
    first = rows("1111100000?0", "x") + rows("11110000", "y")
    second = rows("00000000010?", "x") + rows("11111000", "y")
    found = {(d.measure, d.benchmark): d for d in compare({"A": first, "B": second})}
    assert set(found) == {("false_refusal_rate", name) for name in ("x", "y", "all")}
    x, y, both = (found["false_refusal_rate", name] for name in ("x", "y", "all"))
    # Prompts 10 and 11 have an unreadable answer; 5 differ one way and 1 the other.
    assert (x.n, x.rate_against, x.rate) == (10, 0.5, 0.1)
    assert x.value == pytest.approx(-0.4)
    assert x.interval == pytest.approx(tango_interval(1, 5, 10))
    assert x.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert (y.n, y.value, y.p) == (8, 1 / 8, 1)
    # Holm: the smaller of two p-values is doubled, the larger stays.
    assert (x.p_holm, y.p_holm) == (pytest.approx(2 * x.p), 1)
    assert (both.n, both.p_holm) == (18, both.p)
    numbers = metrics(list(found.values()), ["A", "B"])
    assert numbers["difference/false_refusal_rate/x"] == pytest.approx(-0.4)
    assert numbers["difference/false_refusal_rate/x_p_holm"] == x.p_holm


def test_more_than_two_are_each_compared_to_the_first() -> None:
    sides = {name: rows("1" * k + "0" * (20 - k)) for name, k in (("A", 12), ("B", 6), ("C", 0))}
    b, c = compare(sides)
    assert (b.model, b.against, c.model, c.against) == ("B", "A", "C", "A")
    # Holm over both: 12 of 12 differ the same way, then 6 of 6.
    assert (c.p_holm, b.p_holm) == (pytest.approx(2 * 2**-11), pytest.approx(2**-5))
    assert "difference_3/false_refusal_rate/b" in metrics([b, c], list(sides))


def test_other_prompts_are_told() -> None:
    with pytest.raises(UserError, match="differ in 1 prompts"):
        compare({"A": rows("01"), "B": rows("010")})


@pytest.fixture
def table() -> Any:
    sides = {
        "models:/m-" + "a" * 32: rows("1110", "x_1") + rows("11", "y"),
        "models:/b&c@d": rows("0000", "x_1") + rows("01", "y"),
    }
    return lines(sides, compare(sides))


def test_markdown(table: Any) -> None:
    text = pasted(table, "md").splitlines()
    assert text[0].startswith("| Measure | Benchmark | Model | n | Rate [95% CI] | Difference [95%")
    assert text[2] == "| false refusal | x_1 | m-aaaaaaaa | 4 | 75.0 [30.1, 95.4] | | | |"
    assert text[3].startswith("| false refusal | x_1 | b&c@d | 4 | 0.0 [0.0, 49.0] | -75.0 [-95.4,")
    assert [line.split(" | ")[1] for line in text[2:]] == [
        *("x_1", "x_1", "y", "y", "all", "all", "macro", "macro", "all", "all")
    ]
    assert len({line.count("|") for line in text}) == 1


def test_latex(table: Any) -> None:
    text = pasted(table, "latex")
    assert r"Rate [95\% CI]" in text
    assert r"false refusal & x\_1 & b\&c@d & 4 & 0.0 [0.0, 49.0] & $-$75.0 [$-$95.4" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {7}


def test_csv(table: Any) -> None:
    found = list(csv.DictReader(io.StringIO(pasted(table, "csv"))))
    assert float(found[0]["rate"]) == 0.75
    assert found[0]["difference"] == ""
    assert float(found[1]["difference"]) == -0.75
    assert float(found[1]["p"]) == 0.25


def test_one_model_has_no_columns_for_differences() -> None:
    text = pasted(lines({"A": rows("110")}), "md")
    assert "Difference" not in text
    assert "| false refusal | b | A | 3 | 66.7 [20.8, 93.9] |" in text


def test_short_names_stay_apart() -> None:
    same = ["models:/m-" + "a" * 8 + digit * 24 for digit in "01"]
    assert short_names(same) == {name: name for name in same}


def test_the_pareto_front() -> None:
    points = [(5.0, 5.0), (0.0, 9.0), (6.0, 5.0), (9.0, 0.0), (0.0, 12.0)]
    assert pareto_front(points) == [(0.0, 9.0), (5.0, 5.0), (9.0, 0.0)]


def test_figures_take_what_there_is() -> None:
    both = {"A": rows("110"), "B": rows("000") + rows("01", "z", "harmful")}
    bars = category_figure(both, "source")
    assert len(bars.axes) == 2
    assert [text.get_text() for text in bars.axes[0].get_yticklabels()] == ["b c 1 (n=3)"]
    assert category_figure({"A": rows("00", kind="general")}, "source") is None
    assert len(reflection_figure(both, "source").axes) == 2


def test_a_measure_without_an_error_is_a_sentence_and_no_panel() -> None:
    both = {
        "A": rows("110") + rows("11", "z", "harmful"),
        "B": rows("000") + rows("11", "z", "harmful"),
    }
    figure = category_figure(both, "source")
    assert len(figure.axes) == 1
    assert figure.get_suptitle().replace("\n", " ") == (
        "False refusal is lower with B in 1 of 1 categories; harmful compliance is 0% in every "
        "category with either model"
    )


def test_the_bars_of_several_seeds_hold_what_differs_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figures.plane, "draw", lambda points, *_, **__: drawn.extend(points))
    seeds = []
    for refused in (5, 10, 15):
        many = rows("1" * refused + "0" * (20 - refused)) + rows("0" * 20, "z", "harmful")
        seeds.append(rates(many))
    two_sided_figure({"A": seeds}, "t")
    expected = over_seeds([one.false_refusal for one in seeds])
    assert drawn[0].y == pytest.approx(50)
    assert drawn[0].y_ends == pytest.approx(tuple(100 * end for end in expected.interval))
    # Three seeds on the same 20 prompts are not 60 prompts.
    pooled = Rate(30, 60).interval
    assert drawn[0].y_ends[1] - drawn[0].y_ends[0] > 2 * 100 * (pooled[1] - pooled[0])


def test_all_errors_and_a_fixed_sample_are_traced() -> None:
    first, second = rows("110000000"), rows("000000010")
    assert chosen([first, second], 2) == {"b0", "b1", "b7", "b2", "b3"}
    assert chosen([first], 0) == set()


def test_prompts_that_were_answered_unequally_often_count_as_the_least() -> None:
    # Half of the answers to each prompt are refused: two of them each, four to the first prompt.
    half = [*rows("1" * 20), *rows("0" * 20, repeat=1)]
    more = [*rows("1", repeat=2), *rows("0", repeat=3)]
    never = [*rows("0" * 20), *rows("0" * 20, repeat=1), *rows("00")[:1], *rows("0", repeat=3)]
    found = compare({"a": half + more, "b": never})[0]
    assert found.interval == tuple(-end for end in reversed(tango_interval(2 * 10, 0, 2 * 20)))


def test_repeats_are_worth_at_most_as_many_prompts() -> None:
    # Every prompt differs by the same share: between prompts nothing varies.
    a, b = [0.5] * 40, [0.0] * 40
    assert paired_interval(a, b, 2) == tango_interval(2 * 20, 0, 2 * 40)
    # One prompt differs more than the others: they vary a little, and count twice at most.
    a[0] = 1.0
    assert paired_interval(a, b, 2) == tango_interval(2 * 20.5, 0, 2 * 40)


def test_p_values_of_repeats_are_drawn_alike_each_time() -> None:
    a = [0.5, 0.25, 0.75, 0.5, 1.0, 0.5, 0.25, 0.5, 0.75, 0.25, 0.5, 0.5, 0.25, 0.5, 0.75, 0.5]
    b = [0.25, 0.5, 0.25, 0.25, 0.5, 0.75, 0.0, 0.25, 0.5, 0.5, 0.25, 0.25, 0.5, 0.25, 0.25, 0.75]
    p = paired_p(a, b)
    assert p == paired_p(a, b)
    assert 0.01 < p < 0.2
    # Of 9,999 draws and the one that was made; both sides count.
    assert p * 5000 == pytest.approx(round(p * 5000), abs=1e-6)
    assert paired_p([0.5, 0.25], [0.5, 0.25]) == 1


def test_a_difference_is_a_row_of_a_table() -> None:
    (one,) = compare({"A": rows("1110"), "B": rows("0010")})
    found = as_row(one)
    low, high = one.interval
    assert found == {
        "measure": "false_refusal_rate",
        "benchmark": "b",
        "model": "B",
        "against": "A",
        "n": 4,
        "rate": 0.25,
        "rate_against": 0.75,
        "difference": -0.5,
        "difference_lo": low,
        "difference_hi": high,
        "p": 0.5,
        "p_holm": 0.5,
    }
    assert list(found)[:5] == ["measure", "benchmark", "model", "against", "n"]
    assert metrics([one], ["A", "B"]) == {
        "difference/false_refusal_rate/b": -0.5,
        "difference/false_refusal_rate/b_lo": low,
        "difference/false_refusal_rate/b_hi": high,
        "difference/false_refusal_rate/b_n": 4,
        "difference/false_refusal_rate/b_p": 0.5,
        "difference/false_refusal_rate/b_p_holm": 0.5,
    }


def test_both_error_rates_over_all_benchmarks_are_shown_first() -> None:
    several = {"A": rows("11", "x") + rows("10", "y"), "B": rows("00", "x") + rows("01", "y")}
    numbers = metrics(compare(several), ["A", "B"])
    assert headline(numbers) == {"difference/false_refusal_rate/all"}
    alone = metrics(compare({"A": rows("11"), "B": rows("00")}), ["A", "B"])
    assert headline(alone) == {"difference/false_refusal_rate/b"}
    others = {"difference/general_accuracy/b": 0.1, "false_refusal_rate": 0.5, "a/b_rate/c/d": 1}
    assert headline(others) == set()


def test_a_prompt_that_one_of_both_could_not_be_read_on_is_in_neither_rate() -> None:
    first, second = rows("??11"), rows("01?0")
    (one,) = compare({"A": first, "B": second})
    assert (one.n, one.rate, one.rate_against) == (1, 0, 1)
    assert compare({"A": rows("??"), "B": rows("01")}) == []


def test_the_size_of_repeats_by_hand() -> None:
    # One answer each would vary by 1/2 - 1/4 = 1/4; between the prompts it varies by 1/8: they are
    # worth twice as many.
    assert paired_interval([1, 0.5, 0.5, 0], [0, 0, 0, 0], 4) == tango_interval(4, 0, 8)
    assert paired_interval([1, 0.5, 0.5, 0], [0, 0, 0, 0]) == tango_interval(2, 0, 4)


def test_where_all_answers_agree_the_prompts_are_counted() -> None:
    for share in (0.0, 1.0):
        assert paired_interval([share] * 50, [share] * 50, 5) == tango_interval(0, 0, 50)
