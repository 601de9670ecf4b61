"""Correlations and slopes over runs: hand-worked values, and whole runs as what is resampled."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from fairforget.errors import DataError, UsageError
from fairforget.forgetting.coupling import FEWEST_RUNS, correlation, coupling, slope


def points(runs: int, checkpoints: int = 3, seed: int = 0, weight: float = -1.0) -> pl.DataFrame:
    """Downstream = weight · overall + noise; selectivity is noise of its own; some of all is shared within a run."""
    generator = np.random.default_rng(seed)
    rows = []
    for run in range(runs):
        own = generator.normal(size=3)
        for _ in range(checkpoints):
            overall, selective, noise = own + generator.normal(size=3)
            rows.append({"run": f"r{run}", "seed": run % 6, "overall": overall, "selective": selective,
                         "downstream": weight * overall + 0.5 * noise})
    return pl.DataFrame(rows)


def test_hand_worked_correlations():
    # x = (1, 2, 3), y = (1, 3, 2): covariance 1, variances 2 and 2
    assert correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    # r_xy = .5, r_xz = .5 (z = y), so that given y nothing of y is left
    assert np.isnan(correlation([1, 2, 3], [1, 3, 2], [1, 3, 2]))
    # r_xy = .6, r_xz = 0, r_yz = .8: .6 / sqrt(1 · .36) = 1
    x, z = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])
    assert correlation(x, 0.6 * x + 0.8 * z) == pytest.approx(0.6)
    assert correlation(x, 0.6 * x + 0.8 * z, z) == pytest.approx(1.0)
    assert np.isnan(correlation([1, 1, 1], [1, 2, 3]))


def test_ranks_are_those_of_scipy_with_ties():
    table = points(20).with_columns(pl.col("overall").round(0), pl.col("downstream").round(0))
    found = coupling(table, resamples=200)
    value = found.filter(pl.col("figure") == "spearman")["value"].item()
    assert value == pytest.approx(spearmanr(table["downstream"], table["overall"]).statistic)
    assert found["figure"].to_list() == ["pearson", "partial pearson", "spearman", "partial spearman"]


def test_a_weighted_resample_is_the_resample_written_out():
    table = points(14, seed=3)
    alone = coupling(table.filter(pl.col("run") != "r0"), resamples=200, fewest=5)
    written_out = pl.concat([table.filter(pl.col("run") != "r0")] * 2)
    twice = coupling(written_out, resamples=200, fewest=5)
    assert alone["value"].to_list() == pytest.approx(twice["value"].to_list(), abs=1e-9)


def test_fewer_runs_than_twelve_are_a_description():
    few, enough = coupling(points(FEWEST_RUNS - 1), resamples=200), coupling(points(FEWEST_RUNS), resamples=200)
    assert few["low"].null_count() == 4
    assert few["note"][0] == "descriptive only (11 runs, 12 are needed)"
    assert enough["low"].null_count() == 0
    assert coupling(points(11), cluster="seed", fewest=5, resamples=200)["clusters"][0] == 6


def test_more_checkpoints_of_the_same_runs_are_no_more_evidence():
    table = points(15, checkpoints=2)
    once, tenfold = (coupling(pl.concat([table] * times), resamples=500) for times in (1, 10))
    assert tenfold["points"][0] == 10 * once["points"][0]
    assert once.select("low", "high").to_numpy() == pytest.approx(tenfold.select("low", "high").to_numpy(), abs=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(-5, 5))
def test_scale_and_shift_change_nothing_and_values_lie_in_their_intervals(seed, scale, shift):
    table = points(13, seed=seed)
    moved = table.with_columns(overall=scale * pl.col("overall") + shift, downstream=-scale * pl.col("downstream"))
    first, second = (coupling(rows, resamples=100) for rows in (table, moved))
    assert (first["value"] + second["value"]).abs().max() < 1e-6
    assert ((first["low"] <= first["value"]) & (first["value"] <= first["high"])).all()
    assert first["value"].is_between(-1, 1).all()


def test_a_planted_coupling_is_found_and_one_through_selectivity_alone_goes_away():
    found = coupling(points(40), resamples=500)
    assert (found["high"] < -0.5).all()
    generator = np.random.default_rng(1)
    selective = generator.normal(size=120)
    rows = pl.DataFrame({
        "run": [f"r{number // 3}" for number in range(120)], "selective": selective,
        "overall": selective + 0.3 * generator.normal(size=120), "downstream": -selective + 0.3 * generator.normal(size=120),
    })
    plain, partial = (coupling(rows, resamples=500).filter(pl.col("figure") == name) for name in ("pearson", "partial pearson"))
    assert plain["high"].item() < -0.5
    assert partial["low"].item() < 0 < partial["high"].item()


def test_slopes_over_all_points_and_within_runs_may_differ_in_sign():
    # each run goes down by 1 a unit of x; the runs lie on a line that goes up by 2
    rows = pl.DataFrame([
        {"run": f"r{run}", "x": run + step, "y": 2.0 * run - step} for run in range(12) for step in (-0.1, 0.0, 0.1)
    ])
    pooled, within = slope(rows, "y", "x", resamples=200), slope(rows, "y", "x", within=True, resamples=200)
    assert within.value == pytest.approx(-1.0)
    assert (within.low, within.high) == pytest.approx((-1.0, -1.0))
    # x has variance 143 / 12 + 1 / 150, shared with y: (2 · 143 / 12 - 1 / 150)
    assert pooled.value == pytest.approx((2 * 143 / 12 - 1 / 150) / (143 / 12 + 1 / 150))
    assert np.isnan(slope(rows.filter(pl.col("x") < 5), "y", "x").low)


def test_what_is_missing_is_said():
    with pytest.raises(UsageError, match="no column selective"):
        coupling(points(12).drop("selective"))
    with pytest.raises(DataError, match="No checkpoint has all of"):
        coupling(points(12).with_columns(downstream=pl.lit(None, pl.Float64)))


@pytest.mark.slow
def test_intervals_cover_the_true_correlation():
    # overall and downstream share a run part and a checkpoint part: correlation -1 / sqrt(1.25) in the population
    truth = -1 / np.sqrt(1 + 0.25)
    for runs in (12, 24):
        hits = 0
        for seed in range(400):
            row = coupling(points(runs, seed=seed), resamples=300).row(0, named=True)
            hits += row["low"] <= truth <= row["high"]
        assert 0.91 <= hits / 400 <= 0.995
