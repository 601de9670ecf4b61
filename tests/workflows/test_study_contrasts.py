"""What a variant adds to another: pairs that are alike in all else, item by item, seeds pooled; and collapse beside bias."""

from __future__ import annotations

import os
from types import SimpleNamespace

import polars as pl
import pytest
from conftest import QUICK
from tiny import tiny_model

from fairforget.benchmarks._evaluate import evaluate, paired_changes
from fairforget.errors import UsageError
from fairforget.tables import read_table
from fairforget.workflows.plan import prepare
from fairforget.workflows.study import study
from fairforget.workflows.study_contrasts import DISTANCE
from fairforget.workflows.study_pool import pool
from fairforget.workflows.study_recipe import StudyRecipe, study_cells


def recipe_of(model, **fields):
    values = {
        "base": {**QUICK, "model": str(model), "benchmarks": [
            "starter", "perplexity:starter", {"name": "geometry", "settings": {"corpus": "starter", "words": ["gender"], "documents": 8}},
        ], "search": {"strength": 1.0}},
        "axes": {"rate": [
            {"name": "low", "method": {"learning_rate": 0.05}}, {"name": "high", "method": {"learning_rate": 0.3}},
            {"name": "left-out"},
        ]},
        "seeds": [0, 1],
        "exclude": [{"rate": "left-out"}],
        "against": {"rate": "low"},
        **fields,
    }
    return StudyRecipe.model_validate(values)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("against")
    tiny_model("llama").save(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRFORGET_CACHE", str(folder / "cache"))
        recipe = recipe_of(folder / "model")
        yield SimpleNamespace(folder=folder / "out", recipe=recipe, result=study(recipe, folder / "out"))


def items(folder, cell):
    return read_table(folder / "runs" / cell / "tables" / "items-edited-test.parquet")


def test_only_cells_that_are_alike_in_all_else_are_compared(compared) -> None:
    found = compared.result.contrasts
    assert found.select("configuration", "against").unique().rows() == [("high", "low")]
    assert found.select("seeds", "planned").unique().rows() == [(2, 2)]
    assert found.filter(pl.col("target")).select("task", "metric").rows() == [("starter", DISTANCE)]
    assert {"perplexity_ratio", "unc3", "pct_stereotype"} <= set(found["metric"])


def test_figures_are_the_paired_differences_of_the_two_cells_pooled_over_seeds(compared) -> None:
    benchmark = prepare(study_cells(compared.recipe)[0].recipe).benchmarks[0]
    rows = []
    for seed in (0, 1):
        before, after = (items(compared.folder, f"{rate}-seed{seed}").filter(pl.col("benchmark") == "starter") for rate in ("low", "high"))
        full = evaluate(benchmark, before, after, resamples=200, seed=seed)
        difference = full.filter((pl.col("state") == "difference") & (pl.col("group") == "all"))
        alone = paired_changes(benchmark, before, after, resamples=200, seed=seed)
        assert alone.drop("note").equals(difference.drop("note"))
        rows.append(difference.filter(pl.col("metric") == "pct_stereotype").row(0, named=True))
    wanted = pool([row["value"] for row in rows], [row["standard_error"] for row in rows], rows[0]["clusters"])
    found = compared.result.contrasts.filter(pl.col("metric") == "pct_stereotype").row(0, named=True)
    assert found["change"] == pytest.approx(wanted.value)
    assert (found["low"], found["high"], found["p"]) == pytest.approx((wanted.low, wanted.high, wanted.p))


def test_a_ratio_is_pooled_as_a_logarithm(compared) -> None:
    ratio = compared.result.contrasts.filter(pl.col("metric") == "perplexity_ratio").row(0, named=True)
    cells = compared.result.cells
    by_rate = {rate: cells.filter(pl.col("axis.rate") == rate)["perplexity_ratio"] for rate in ("low", "high")}
    wanted = ((by_rate["high"] / by_rate["low"]).log().mean()) or 0.0
    assert pl.Series([ratio["change"]]).log()[0] == pytest.approx(wanted, abs=1e-9)
    assert ratio["low"] < ratio["change"] < ratio["high"]


def test_pairs_are_measured_once_until_a_cell_is_run_again(compared, monkeypatch) -> None:
    import fairforget.workflows.study_contrasts as contrasts

    measured = []
    own = contrasts.paired_changes
    monkeypatch.setattr(contrasts, "paired_changes", lambda *given, **named: measured.append(given[0].name) or own(*given, **named))
    again = study(compared.recipe, compared.folder)
    assert again.contrasts.equals(compared.result.contrasts)
    assert not measured
    record = compared.folder / "runs" / "low-seed0" / "run.json"
    later = max(path.stat().st_mtime for path in compared.folder.rglob("*")) + 5
    os.utime(record, (later, later))
    assert study(compared.recipe, compared.folder).contrasts.equals(compared.result.contrasts)
    assert measured == ["starter", "perplexity", "geometry"]


def test_collapse_stands_beside_bias_for_the_base_and_every_cell(compared) -> None:
    found = read_table(compared.folder / "tables" / "collapse.parquet")
    assert found["configuration"].to_list() == ["base", "low", "low", "high", "high"]
    assert found["task"].unique().to_list() == ["starter"]
    metrics = read_table(compared.folder / "runs" / "high-seed1" / "tables" / "metrics.parquet").filter(pl.col("group") == "all")

    def figure(state, metric, task):
        return metrics.filter((pl.col("state") == state) & (pl.col("metric") == metric) & (pl.col("task") == task))["value"][0]

    assert found["unc3"][4] == figure("edited", "unc3", "geometry-gender")
    assert found["nc3_mean"][4] == figure("edited", "nc3_mean", "geometry-gender")
    assert found["distance"][4] == figure("edited", "margin_rms", "starter")
    assert (found["unc3"][0], found["distance"][0]) == (figure("base", "unc3", "geometry-gender"), figure("base", "margin_rms", "starter"))
    assert found["unc3"].n_unique() > 2


def test_every_benchmark_is_pooled_beside_the_cost(compared) -> None:
    found = read_table(compared.folder / "tables" / "benchmarks.parquet")
    assert found.select("task", "metric").unique(maintain_order=True).rows() == [
        ("starter", "pct_stereotype"), ("perplexity-starter", "perplexity"), ("geometry-gender", "unc3"),
    ]
    row = found.filter((pl.col("task") == "starter") & (pl.col("configuration") == "high")).row(0, named=True)
    cells = compared.result.cells.filter(pl.col("axis.rate") == "high")
    assert row["change"] == pytest.approx(cells["starter.pct_stereotype.difference"].mean())
    assert row["before"] == cells["starter.pct_stereotype.before"][0]
    assert (row["seeds"], row["neutral"], row["unit"]) == (2, 50.0, "%")
    frontier = compared.result.frontier.filter(pl.col("configuration") == "high").row(0, named=True)
    assert row["cost"] == frontier["cost"]


def test_a_study_without_it_compares_nothing(finished_study) -> None:
    assert finished_study.result.contrasts.is_empty()
    assert read_table(finished_study.folder / "tables" / "collapse.parquet").is_empty()


@pytest.mark.parametrize(("against", "words"), [({"rte": "low"}, "axis 'rte'.*rate"), ({"rate": "lo"}, "'lo' on the axis 'rate'.*low")])
def test_a_name_that_there_is_not_is_refused_with_the_nearest(tmp_path, against, words) -> None:
    from fairforget.workflows.study_recipe import read_study

    path = tmp_path / "study.yaml"
    path.write_text(f"axes: {{rate: [{{name: low}}, {{name: high}}]}}\nagainst: {against}\n")
    with pytest.raises(UsageError, match=words):
        read_study(path)
