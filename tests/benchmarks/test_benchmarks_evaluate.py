"""Metric rows and search targets as pure functions of item tables, and benchmarks found by name."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fairforget.benchmarks import registry, resolve, resolve_all
from fairforget.benchmarks._base import Benchmark, Item
from fairforget.benchmarks._evaluate import CUT, METRIC_SCHEMA, evaluate, within
from fairforget.benchmarks._targets import margin_rms_change, parse_target, target_change, target_value
from fairforget.errors import DataError, UsageError
from fairforget.stats import Interval
from fairforget.stats.target import domain_rms
from fairforget.tables import ITEM_SCHEMA, item_table, preference


def make_table(margins: np.ndarray, *, domains: int = 4, skipped: tuple[int, ...] = (), task: str = "crows-pairs") -> pl.DataFrame:
    """Items in clusters of two, clusters in domains that take turns."""
    rows = []
    for number, margin in enumerate(margins):
        domain = f"domain {number // 2 % domains}"
        row = {
            "benchmark": "crows-pairs", "protocol": "sum", "task": task, "role": "bias", "part": "test", "item": str(number),
            "cluster": str(number // 2), "stratum": domain, "groups": [domain, "everyone"], "prefix": "id 0",
        }
        if number in skipped:
            row["skipped"] = "a reason"
        else:
            row |= {"margin": float(margin), "prefers_stereotype": preference(float(margin))}
        rows.append(row)
    return item_table(rows)


@pytest.mark.parametrize(("name", "metric", "expected"), [
    ("crows-pairs", "pct_stereotype", (0, 100)), ("winobias-lm", "gap", (-100, 100)), ("crows-pairs", "margin", (-np.inf, np.inf)),
    ("winogender", "correlation", (-1, 1)), ("arc", "answer_nll", (0, np.inf)),
])
def test_the_limits_of_figures(name: str, metric: str, expected: tuple[float, float]) -> None:
    assert next(one for one in resolve(name).metrics() if one.name == metric).limits == expected


def test_an_interval_ends_at_what_the_figure_can_be() -> None:
    wide = Interval(60.0, 37.0, 163.0, 8.0, 21, 2400, "few")
    assert within(wide, 0, 100) == Interval(60.0, 37.0, 100, 8.0, 21, 2400, f"few; {CUT}")
    assert within(wide, -100, 200) is wide
    assert within(Interval(1.0, np.nan, np.nan, np.nan, 2, 2, "no"), 0, 100).note == "no"
    # Two clusters a stratum, all of one and none of the other: replicates without variation make endless intervals.
    rows = [
        {"benchmark": "arc", "protocol": "x", "task": "arc", "role": "ability", "part": "test", "item": f"{c} {n}", "cluster": str(c),
         "stratum": str(c // 2), "groups": [], "correct": float(c % 2 == 0 or n < c), "scores": [0.0, 1.0], "nll": 1.0}
        for c in range(12) for n in range(1 + 7 * c)
    ]
    found = evaluate(resolve("arc"), item_table(rows), resamples=500).filter(pl.col("metric") == "accuracy").row(0, named=True)
    assert 0 <= found["low"] < found["value"] < found["high"] <= 100


def noise(seed: int, size: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


def test_rows_of_one_state():
    margins = noise(0) + 0.3
    margins[5] = 0.0
    table = make_table(margins, skipped=(7,))
    rows = evaluate(resolve("crows-pairs"), table, resamples=200)
    assert rows.schema == pl.Schema(METRIC_SCHEMA)
    assert set(rows["state"]) == {"base"}
    scored = np.delete(margins, 7)
    overall = {row["metric"]: row for row in rows.filter(pl.col("group") == "all").iter_rows(named=True)}
    assert overall["margin"]["value"] == pytest.approx(scored.mean())
    assert overall["pct_stereotype"]["value"] == pytest.approx(100 * (scored > 0).mean())
    for row in overall.values():
        assert (row["n"], row["ties"], row["skipped"], row["protocol"], row["prefix"]) == (159, 1, 1, "sum", "id 0")
        assert row["low"] < row["value"] < row["high"]
    assert overall["pct_stereotype"]["neutral"] == 50
    by_group = rows.filter((pl.col("metric") == "margin") & (pl.col("group") == "domain 3"))
    inside = [margin for number, margin in enumerate(margins) if number // 2 % 4 == 3 and number != 7]
    assert by_group["value"].item() == pytest.approx(np.mean(inside))
    assert by_group["skipped"].item() == 1
    assert set(rows["group"]) == {"all", "everyone", *(f"domain {number}" for number in range(4))}


def test_differences_are_paired_and_joint_over_groups():
    before = make_table(noise(0) + 0.5, skipped=(3,))
    after = make_table(noise(0) + 0.2 + 0.1 * noise(1), skipped=(4,)).sample(fraction=1, shuffle=True, seed=1)
    rows = evaluate(resolve("crows-pairs"), before, after, resamples=2000)
    margins = rows.filter((pl.col("state") == "difference") & (pl.col("metric") == "margin"))
    change = {row["group"]: row for row in margins.iter_rows(named=True)}
    kept = [number for number in range(160) if number not in (3, 4)]
    expected = (-0.3 + 0.1 * noise(1))[kept]
    assert change["all"]["value"] == pytest.approx(expected.mean())
    assert (change["all"]["n"], change["all"]["skipped"], change["all"]["neutral"]) == (158, 2, 0)
    # Paired: the noise that both states share is gone, so that the interval is far narrower than that of either state.
    state = rows.filter((pl.col("state") == "base") & (pl.col("metric") == "margin") & (pl.col("group") == "all"))
    assert change["all"]["standard_error"] < 0.2 * state["standard_error"].item()
    inside = [moved for moved, number in zip(expected, kept, strict=True) if number // 2 % 4 == 1]
    assert change["domain 1"]["value"] == pytest.approx(np.mean(inside))
    assert change["domain 1"]["note"].startswith("simultaneous over 5 groups")
    # "everyone" is all items, so its joint interval has the same centre and is wider.
    assert change["everyone"]["value"] == pytest.approx(change["all"]["value"])
    assert change["everyone"]["high"] - change["everyone"]["low"] > 1.1 * (change["all"]["high"] - change["all"]["low"])


def test_a_difference_of_a_state_with_itself_is_nothing():
    table = make_table(noise(2))
    rows = evaluate(resolve("crows-pairs"), table, table, resamples=100).filter(pl.col("state") == "difference")
    assert rows["value"].to_list() == [0.0] * rows.height


def test_tables_of_different_items_are_refused():
    table = make_table(noise(0))
    with pytest.raises(DataError, match="1 items are only in the first and 0 only in the second"):
        evaluate(resolve("crows-pairs"), table, table.head(159), resamples=100)
    with pytest.raises(DataError, match="twice"):
        evaluate(resolve("crows-pairs"), pl.concat([table, table]), table, resamples=100)


def test_margin_target_is_the_root_mean_square_over_domains():
    margins = noise(3) + np.tile(np.repeat([0.8, -0.8, 0.4, 0.0], 2), 20)
    table = make_table(margins, skipped=(0,))
    found = target_value(table)
    assert found.distance == pytest.approx(np.sqrt(0.36), abs=0.15)
    assert abs(found.signed) < 0.3
    kept = np.arange(160) != 0
    domain, cluster = (np.array([str(label) for label in labels]) for labels in (np.arange(160) // 2 % 4, np.arange(160) // 2))
    expected = domain_rms(margins[kept], domain[kept], cluster[kept])
    assert found == (pytest.approx(expected.value), pytest.approx(expected.standard_error), pytest.approx(expected.signed_mean))


def test_domains_of_two_tasks_are_kept_apart():
    up, down = make_table(noise(4) * 0.1 + 1, task="one"), make_table(noise(5) * 0.1 - 1, task="two")
    assert target_value(pl.concat([up, down])).distance == pytest.approx(1, abs=0.05)
    assert target_value(pl.concat([up, down])).signed == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("metric", ["pct_stereotype", "ss"])
def test_percentage_targets_are_distances_from_fifty(metric):
    table = make_table(noise(6) - 0.5)
    found = target_value(table, metric)
    value = 100 * (table["margin"] > 0).mean()
    assert found.signed == pytest.approx(value - 50)
    assert found.distance == pytest.approx(abs(value - 50))
    assert 2 < found.standard_error < 6
    mirrored = make_table(-(noise(6) - 0.5))
    change = target_change(table, mirrored, metric, resamples=500)
    assert change.value == pytest.approx(0, abs=1e-9)


def test_change_of_the_margin_target():
    before, after = make_table(noise(7) + 0.6), make_table(noise(7) + 0.3)
    change = target_change(before, after)
    assert change.value == pytest.approx(target_value(after).distance - target_value(before).distance)
    assert change.low < -0.3 < change.high < 0
    assert change.standard_error < 0.06
    assert change.clusters == 80
    same = target_change(before, before)
    assert same.value == 0
    assert np.isnan(same.low)
    rows = evaluate(resolve("crows-pairs"), before, after, resamples=100).filter(pl.col("metric") == "margin_rms")
    assert rows["state"].to_list() == ["base", "edited", "difference"]
    assert rows["value"].to_list()[2] == pytest.approx(change.value)


def test_change_of_the_margin_target_covers_the_truth():
    generator = np.random.default_rng(8)
    truth, hits = 0.3 - 0.7, 0
    for _ in range(150):
        shared = generator.normal(size=160)
        before, after = make_table(shared + 0.7), make_table(0.8 * shared + 0.4 * generator.normal(size=160) + 0.3)
        interval = margin_rms_change(before, after)
        hits += interval.low <= truth <= interval.high
    assert 0.88 * 150 <= hits <= 150
    assert hits > 135


def test_too_few_clusters_give_a_figure_without_an_interval():
    before, after = make_table(noise(9, 8) + 2, domains=2), make_table(noise(10, 8) + 1, domains=2)
    change = target_change(before, after)
    assert change.value == pytest.approx(target_value(after).distance - target_value(before).distance)
    assert change.value < 0
    assert np.isnan(change.low)
    assert "too few clusters (4)" in change.note
    alone = target_change(make_table(noise(9, 8)), make_table(noise(10, 8)))
    assert np.isnan(alone.value)
    assert "1 in each domain" in alone.note


def test_targets_are_named_benchmark_and_metric():
    assert parse_target("starter:margin") == ("starter", "margin")
    assert parse_target("crows-pairs:mean:margin") == ("crows-pairs:mean", "margin")
    with pytest.raises(UsageError, match="BENCHMARK:METRIC"):
        parse_target("starter")
    with pytest.raises(UsageError, match="target metric named 'margins'"):
        parse_target("starter:margins")
    with pytest.raises(UsageError, match="target metric named 'lms'"):
        target_value(make_table(noise(0)), "lms")


# found by name ------------------------------------------------------------------------------------------------------------


def test_every_benchmark_is_found_and_described():
    assert {"crows-pairs", "perplexity", "starter", "stereoset"} <= set(registry.names())
    for name in registry.names():
        kind = registry.get(name)
        assert kind.name == name
        assert len(kind.description) > 30
        assert kind.families <= {"causal", "masked"}
        for preset in kind.presets:
            assert isinstance(resolve(f"{name}:{preset}"), Benchmark)
        for field in kind.Settings.model_fields.values():
            assert field.description
        metrics = kind().metrics()
        assert len({metric.name for metric in metrics}) == len(metrics)


def test_settings_override_presets():
    assert resolve("crows-pairs:nangia", {"tie": 0.5}).settings.model_dump() == {
        "share": 1.0, "limit": None, "protocol": "shared-pll", "split_first": False, "prefix": "model", "rounded": True,
        "tie": 0.5,
    }
    with pytest.raises(UsageError, match=r"recipe line 3: .*no field 'ties'.*tie"):
        resolve("crows-pairs", {"ties": 1}, where="recipe line 3")


@pytest.mark.parametrize(("names", "words"), [
    ("crow-pairs", "did you mean crows-pairs"),
    ("crows-pairs:means", "no preset 'means': did you mean mean"),
    ("starter,perplexity, starter", "'starter' is named twice"),
    (" , ", "No benchmark was named"),
])
def test_wrong_names_are_refused_with_near_ones(names, words):
    with pytest.raises(UsageError, match=words):
        resolve_all(names)


def test_a_list_of_names():
    chosen = resolve_all("crows-pairs:mean, perplexity:starter,perplexity")
    assert [benchmark.name for benchmark in chosen] == ["crows-pairs", "perplexity", "perplexity"]
    assert [benchmark.settings.source for benchmark in chosen[1:]] == ["starter", "wikitext2"]


def test_an_empty_part_is_an_error_not_a_score(monkeypatch: pytest.MonkeyPatch):
    from tiny import tiny_model

    from fairforget.scoring import Scorer

    benchmark = resolve("starter")
    with pytest.raises(DataError, match="no items in its part 'nowhere'"):
        benchmark.measure(Scorer(tiny_model("gpt2"), store=False), "nowhere")


def test_item_tables_have_the_one_schema():
    from tiny import tiny_model

    benchmark = resolve("starter")
    items = [Item("1", "starter", "bias", "test", "c", "d", ("g",), ("a man", "a woman"))]
    table = benchmark.table(items, [[np.array([-1.0, -2.0]), np.array([-1.0, -3.0])]], tiny_model("gpt2"))
    assert table.schema == pl.Schema(ITEM_SCHEMA)
    with pytest.raises(ValueError, match="more scores than requests"):
        benchmark.table(items, [[np.zeros(2)] * 3], tiny_model("gpt2"))
