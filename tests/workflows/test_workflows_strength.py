"""The strength search on made-up models whose bias and cost at every strength are known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fairforget.tables import item_table, preference
from fairforget.workflows.recipe import Search
from fairforget.workflows.strength import search_strength


def world(slope: float, cost: float, noise: float = 0.05, start: float = 1.0, clusters: int = 40):
    """Margins start at `start` and fall by slope * s; perplexity rises by the factor exp(cost * s)."""
    generator = np.random.default_rng(0)
    own = generator.normal(0, 0.3, clusters)
    shake = generator.normal(0, 1, clusters)
    calls: list[tuple[float, str]] = []

    def measure(strength: float, kind: str) -> pl.DataFrame:
        calls.append((strength, kind))
        rows = []
        for cluster in range(clusters):
            row = {"benchmark": kind, "protocol": "made", "task": kind, "part": "select", "groups": [], "texts": []}
            row |= {"item": str(cluster), "cluster": str(cluster)}
            if kind == "target":
                margin = start + own[cluster] - strength * slope + strength * noise * shake[cluster]
                row |= {"role": "bias", "stratum": f"domain {cluster % 2}", "margin": margin, "scores": [margin, 0.0]}
                row["prefers_stereotype"] = preference(margin)
            else:
                nll = 100 * (3 + cost * strength + strength * 0.001 * shake[cluster])
                row |= {"role": "ability", "stratum": "text", "nll": nll, "tokens": 100}
            rows.append(row)
        return item_table(rows)

    return measure, calls


def test_the_largest_strength_within_the_budget_is_found_by_bisection() -> None:
    measure, _ = world(slope=0.5, cost=np.log(1.02) / 0.5)  # 2 % at strength 0.5
    found = search_strength(measure, "margin", 2.0, Search(bisections=8), resamples=500)
    assert 0.45 < found.limit < 0.5
    assert found.strength == found.limit
    kept = found.curve.filter(pl.col("within_budget"))
    assert kept["strength"].max() == found.limit
    assert (kept["ratio_high"].fill_nan(1.0) <= 1.02 + 1e-12).all()


def test_a_cheap_edit_is_searched_up_to_the_largest_strength_and_stops_at_neutral() -> None:
    measure, calls = world(slope=2.0, cost=0.0)  # neutral at 0.5
    found = search_strength(measure, "margin", 2.0, Search(), resamples=500)
    assert found.limit == 1.0
    assert found.strength == 0.5
    assert found.curve.filter(pl.col("strength") == 1.0)["reversed"].item()
    assert found.curve["chosen"].sum() == 1
    targets = [strength for strength, kind in calls if kind == "target"]
    assert set(targets) == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_the_rule_of_the_budget_takes_the_largest_strength_wherever_the_target_is() -> None:
    measure, calls = world(slope=2.0, cost=np.log(1.02) / 0.8)  # neutral at 0.5, 2 % at 0.8
    found = search_strength(measure, "margin", 2.0, Search(rule="budget", bisections=6), resamples=500)
    assert 0.7 < found.strength == found.limit < 0.8
    assert found.curve.filter(pl.col("chosen"))["reversed"].item()
    assert {strength for strength, kind in calls if kind == "target"} == {0.0, found.limit}


def test_a_useless_edit_is_left_at_zero() -> None:
    measure, _ = world(slope=0.0, cost=0.0, noise=0.5)
    found = search_strength(measure, "margin", 2.0, Search(), resamples=500)
    assert found.strength == 0.0
    assert "No strength" in found.reason


def test_a_ruinous_edit_has_no_strength_within_the_budget() -> None:
    measure, _ = world(slope=1.0, cost=50.0)
    found = search_strength(measure, "margin", 2.0, Search(bisections=3), resamples=500)
    assert found.strength == found.limit == 0.0
    assert "the smallest was 0.125" in found.reason
    assert "collapsed" in found.curve.filter(pl.col("strength") == 1.0)["note"].item()


def test_without_a_budget_only_the_target_is_measured() -> None:
    measure, calls = world(slope=1.0, cost=9.0)
    found = search_strength(measure, "margin", None, Search(), resamples=500)
    assert found.strength == 1.0
    assert not any(kind == "perplexity" for _, kind in calls)


@pytest.mark.parametrize("metric", ["margin", "pct_stereotype"])
def test_every_target_metric_can_steer(metric: str) -> None:
    measure, _ = world(slope=2.0, cost=0.0)
    assert search_strength(measure, metric, 2.0, Search(), resamples=500).strength > 0
