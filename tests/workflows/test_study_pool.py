"""Seeds pooled, the frontier, lines over model size, and the words: known answers on hand-made tables."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import t
from synthetic_study import cell, synthetic_contrasts, table

from fairforget.workflows.scaling import BIAS, COST, fit_line, scaling_table
from fairforget.workflows.study_contrasts import CONTRAST_SCHEMA
from fairforget.workflows.study_pool import frontier_table, pool
from fairforget.workflows.study_table import cell_words, study_markdown
from fairforget.workflows.study_words import study_words


def test_a_mean_over_seeds_adds_the_spread_of_seeds_to_the_luck_of_the_items() -> None:
    found = pool([-0.1, -0.3], [0.1, 0.1], clusters=11)
    assert found.value == pytest.approx(-0.2)
    assert found.spread == pytest.approx(math.sqrt(0.02))
    assert found.error == pytest.approx(math.sqrt(0.02 / 2 + 0.01))
    assert found.high - found.value == pytest.approx(math.sqrt(t.ppf(0.975, 1) ** 2 * 0.01 + t.ppf(0.975, 10) ** 2 * 0.01))
    assert pool([-0.1, -0.3], [0.1, 0.1], clusters=11, level=1 - found.p).high == pytest.approx(0, abs=1e-9)
    assert pool([-0.3], [0.1], clusters=11).p == pytest.approx(2 * t.sf(3, 10))


def test_equal_seeds_are_as_unsure_as_one() -> None:
    one, many = pool([-0.2], [0.1], 11), pool([-0.2] * 5, [0.1] * 5, 11)
    assert (many.error, many.low, many.high) == pytest.approx((one.error, one.low, one.high))
    assert one.spread is None
    assert many.spread == 0


def test_states_left_alone_have_no_uncertainty() -> None:
    found = pool([0.0, 0.0], [0.0, 0.0], 11)
    assert (found.low, found.high, found.error) == (0.0, 0.0, 0.0)


def test_a_seed_without_interval_leaves_the_mean_without_one() -> None:
    assert math.isnan(pool([-0.1, -0.2], [0.1, math.nan], 11).low)


@pytest.mark.parametrize(("count", "spread"), [(2, 0.3), (3, 0.1), (3, 1.0)])
def test_intervals_of_pooled_seeds_cover_the_truth(count, spread) -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        shared = draw.normal(0, 0.1)  # the luck of the items, the same for all seeds
        seeds = (0.5 + shared + draw.normal(0, spread, count)).tolist()
        found = pool(seeds, [0.1] * count, clusters=40)
        hits += found.low <= 0.5 <= found.high
    assert hits / 600 > 0.93  # one with Satterthwaite's degrees of freedom covers 0.89 for the first


def test_the_frontier_is_what_nothing_beats_on_both() -> None:
    found = frontier_table(table(
        cell("cheap", 0, -0.1, 1.002), cell("strong", 0, -0.5, 1.018), cell("beaten", 0, -0.4, 1.019), cell("worse", 0, 0.1, 1.001),
        cell("other-model", 0, -0.2, 1.05, model="n"),
    ))
    assert dict(found.select("configuration", "on_frontier").rows()) == {
        "cheap": True, "strong": True, "beaten": False, "worse": False, "other-model": True,
    }
    assert dict(found.select("configuration", "within_budget").rows()) == {
        "cheap": "kept", "strong": "kept", "beaten": "kept", "worse": "kept", "other-model": "over",
    }


def test_the_untouched_base_is_not_on_its_own_frontier() -> None:
    still = {"target_error": 0.0, "target_low": 0.0, "target_high": 0.0, "perplexity_error": 0.0}
    found = frontier_table(table(cell("nothing", 0, 0.0, 1.0, **still)))
    assert found["on_frontier"].to_list() == [False]
    assert found["p"].to_list() == [1.0]


def test_seeds_are_pooled_and_those_that_failed_are_counted() -> None:
    rows = [cell("a", seed, change, ratio) for seed, change, ratio in ((0, -0.2, 1.01), (1, -0.4, 1.03))]
    rows += [cell("a", 2, 0.0, 1.0, status="failed"), cell("b", 0, 0.0, 1.0, status="not run")]
    found = frontier_table(table(*rows))
    assert found.height == 1  # nothing of b is finished
    row = found.row(0, named=True)
    assert (row["seeds"], row["planned"]) == (2, 3)
    assert row["change"] == pytest.approx(-0.3)
    assert row["cost"] == pytest.approx(math.sqrt(1.01 * 1.03))
    assert row["within_budget"] == "kept by the estimate"
    assert "1 of 3 seeds failed" in row["note"]
    assert row["verdicts"] == "lowered 2 of 2"


def test_lines_have_the_slopes_and_intervals_of_least_squares() -> None:
    line = fit_line([1, 2, 3], [0, 1, 1])
    assert (line.slope, line.intercept) == pytest.approx((0.5, -1 / 3))
    assert line.high - line.slope == pytest.approx(t.ppf(0.975, 1) * math.sqrt((1 / 6) / 2))
    weighted = fit_line([0, 1, 2], [0, 1, 0], [1, 1, 0.5])
    assert weighted.weighted
    assert weighted.slope == pytest.approx(-0.5 / 3.5)
    assert not fit_line([0, 1, 2], [0, 1, 0], [1, 0, 1]).weighted
    assert math.isnan(fit_line([0, 1], [0, 1]).low)


def test_a_change_that_grows_by_a_tenth_a_decade_is_found() -> None:
    rows = []
    for size, change, ratio in ((1000, -0.1, 1.01), (10_000, -0.2, 1.02), (100_000, -0.3, 1.03)):
        axes = {"model": f"m{size}", "way": "tv"}
        rows.append(cell(f"m{size} · tv", 0, change, ratio, model=f"m{size}", parameters=size, axes=axes))
    cells = table(*rows)
    found = scaling_table(frontier_table(cells), cells)
    assert found["configuration"].unique().to_list() == ["tv"]
    bias = found.filter(pl.col("figure") == BIAS).row(0, named=True)
    assert bias["slope"] == pytest.approx(-0.1)
    assert (bias["sizes"], bias["smallest"], bias["largest"], bias["weighted"]) == (3, 1000, 100_000, True)
    cost = found.filter(pl.col("figure") == COST).row(0, named=True)
    assert cost["slope"] == pytest.approx(math.log(1.03 / 1.01) / 2, rel=1e-2)
    two = scaling_table(frontier_table(cells[:2]), cells[:2])
    assert two["low"].to_list() == [None, None]
    assert scaling_table(frontier_table(cells[:1]), cells[:1]).is_empty()


def test_the_words_count_what_was_run_and_claim_no_more_than_the_intervals() -> None:
    rows = [cell("strong", 0, -0.5, 1.01), cell("near", 0, -0.45, 1.011), cell("weak", 0, -0.05, 1.001)]
    cells = table(*rows, cell("broken", 0, 0, 1, status="failed", reason="No."))
    none = pl.DataFrame(schema=CONTRAST_SCHEMA)
    words = study_words(cells, frontier_table(cells), scaling_table(frontier_table(cells), cells), none, "frontier")
    assert words.headline.startswith("2 of 3 configurations lowered")
    assert "3 of 4 cells are finished, 1 failed" in words.sentences[0]
    panel = words.sentences[-1]
    assert "the largest fall within the budget is that of strong" in panel
    assert "the intervals of near overlap its own" in panel
    nothing = study_words(cells[3:], frontier_table(cells[3:]), scaling_table(frontier_table(cells[3:]), cells[3:]), none, "frontier")
    assert nothing.headline == "No cell of this study is finished yet."


def test_a_base_that_is_neutral_already_is_said_to_be() -> None:
    cells = table(cell("a", 0, 0.0, 1.01, target_before=0.0))
    words = study_words(cells, frontier_table(cells), scaling_table(frontier_table(cells), cells), synthetic_contrasts(), "frontier")
    assert "so nothing can come nearer" in words.sentences[1]


def test_the_words_say_what_a_variant_adds_and_what_cannot_be_told() -> None:
    cells = table(cell("a", 0, -0.2, 1.01))
    words = study_words(cells, frontier_table(cells), scaling_table(frontier_table(cells), cells), synthetic_contrasts(), "frontier")
    nearer, apart = words.sentences[-2:]
    assert nearer.startswith("m0 · pcgu is nearer to neutral than m0 · task-vector, item by item: −0.120")
    assert "at +1.0 % [+0.4, +1.6] of perplexity" in nearer
    assert apart.startswith("m0 · cda is not told apart from m0 · task-vector")


def test_a_cell_that_was_not_run_is_a_row_that_says_why() -> None:
    rows = table(cell("a", 0, -0.2, 1.01), cell("b", 0, 0, 1, status="failed", reason="Out | of memory."))
    assert cell_words(rows.row(1, named=True))[2] == "failed: Out | of memory."
    lines = study_markdown(rows).splitlines()
    assert len(lines) == 4
    assert "−0.200\u00a0nats [−0.400, 0.000]" in lines[2]
    assert "Out \\| of memory." in lines[3]
