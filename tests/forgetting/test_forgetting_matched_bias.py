"""Arms at equal bias and at equal steps: interpolation by hand, pairs, and what never gets there."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairforget.errors import DataError
from fairforget.forgetting.matched_bias import at_level, common_level, difference_by_step, matched_comparison, over_seeds_difference


def path(shifts, overall, downstream=None, steps=(0, 10, 100), **facts):
    downstream = downstream or [0.0, None, None]
    return pl.DataFrame(
        {"step": steps, "margin_shift": shifts, "overall": overall, "downstream": downstream},
        schema={"step": pl.Int64(), **dict.fromkeys(("margin_shift", "overall", "downstream"), pl.Float64())},
    ).with_columns(**{name: pl.lit(value) for name, value in facts.items()})


def arms(cost: dict[str, float], seeds: int = 6) -> pl.DataFrame:
    """Overall forgetting of an arm is its cost times the shift; speeds differ from seed to seed."""
    return pl.concat([
        path(
            [0.0, speed, 2 * speed], [0.0, price * speed, 2 * price * speed], [0.0, None, -10 * price * speed], arm=arm, size=100,
            seed=seed,
        )
        for arm, price in cost.items()
        for seed, speed in enumerate(np.linspace(0.8, 1.2, seeds).tolist())
    ])


def test_a_path_is_interpolated_where_it_first_gets_there():
    # half-way from step 10 (shift .4, overall 1) to step 100 (shift .8, overall 3); downstream half-way from 0 to 100: 1.5 / 2 · -4 ...
    found = at_level(path([0.0, 0.4, 0.8], [0.0, 1.0, 3.0], [0.0, None, -4.0]), 0.6, figures=("overall", "downstream"))
    assert found == pytest.approx({"step": 55.0, "overall": 2.0, "downstream": -3.0})
    # it goes back later: the first crossing counts
    assert at_level(path([0.0, 1.0, 0.2], [0.0, 5.0, 50.0]), 0.5)["overall"] == pytest.approx(2.5)
    assert np.isnan(at_level(path([0.0, 0.1, 0.2], [0.0, 1.0, 2.0]), 0.5)["overall"])


@settings(max_examples=30)
@given(st.floats(0.05, 0.95), st.lists(st.floats(0.01, 1), min_size=2, max_size=2))
def test_where_forgetting_is_a_multiple_of_the_shift_it_is_so_at_every_level(share, gains):
    shifts = np.cumsum([0.0, *gains])
    found = at_level(path(shifts.tolist(), (3 * shifts).tolist()), share * shifts[-1])
    assert found["overall"] == pytest.approx(3 * share * shifts[-1])


def test_an_arm_that_learns_less_does_not_win_by_that():
    paths = arms({"slow": 1.0, "fast": 1.0})
    slower = pl.when(pl.col("arm") == "slow").then(0.5).otherwise(1.0)
    paths = paths.with_columns(pl.col("margin_shift") * slower, pl.col("overall") * slower)
    row = matched_comparison(paths, "slow", "fast", figures=("overall",)).row(0, named=True)
    assert row["difference"] == pytest.approx(0.0, abs=1e-9)
    assert row["at"] == pytest.approx(0.5)  # half of the slow arm's median reach of 1
    by_step = difference_by_step(paths, "slow", "fast").filter(pl.col("step") == 100).row(0, named=True)
    assert by_step["difference"] == pytest.approx(-1.0)
    assert by_step["high"] < -0.8


def test_differences_are_paired_and_seeds_are_what_is_resampled():
    row = matched_comparison(arms({"dear": 3.0, "cheap": 1.0}), "dear", "cheap", at=0.5).rows(named=True)
    overall, downstream = row
    assert (overall["first"], overall["second"], overall["difference"]) == pytest.approx((1.5, 0.5, 1.0))
    # differences that are all the same have no interval; with a little spread they have a narrow one
    assert overall["note"] == "6 seeds, 1 to 1"
    spread = over_seeds_difference([0.9, 1.0, 1.1, 0.9, 1.1, 1.0], range(6))
    assert 0.8 < spread.low < 0.95
    assert 1.05 < spread.high < 1.2
    assert (overall["pairs"], overall["clusters"]) == (6, 6)
    assert downstream["difference"] == pytest.approx(0.5 / 2 * 10 * (1 - 3))
    few = matched_comparison(arms({"dear": 3.0, "cheap": 1.0}, seeds=2), "dear", "cheap", at=0.5).row(0, named=True)
    assert few["low"] is None
    assert few["note"] == "2 seeds, 1 to 1"


def test_runs_that_do_not_get_there_are_counted():
    paths = arms({"a": 1.0, "b": 1.0})
    stuck = paths.with_columns(margin_shift=pl.when((pl.col("arm") == "b") & (pl.col("seed") == 0)).then(0.0).otherwise("margin_shift"))
    row = matched_comparison(stuck, "a", "b", at=0.5).row(0, named=True)
    assert (row["pairs"], row["first_short"], row["second_short"]) == (5, 0, 1)
    still = paths.with_columns(margin_shift=pl.when(pl.col("arm") == "b").then(-pl.col("margin_shift")).otherwise("margin_shift"))
    assert np.isnan(common_level(still))
    assert matched_comparison(still, "a", "b")["note"].to_list() == ["no reduction of bias that both reach"] * 2
    with pytest.raises(DataError, match="no runs of 'c'"):
        matched_comparison(paths, "a", "c")


def test_no_pair_has_no_difference():
    assert np.isnan(over_seeds_difference([], []).value)
