"""The page of the trade-off study: whole in itself, verdicts first, text of others escaped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from html_page import Page

from fairforget.errors import FairforgetError
from fairforget.files import write_json
from fairforget.report import write_report
from fairforget.report.tradeoff_charts import coupling_chart, mean_paths, path_chart
from fairforget.report.tradeoff_page import write_tradeoff_page
from fairforget.tables import write_table

EVIL = "<script>document.title='pwned'</script>"


def checkpoints() -> pl.DataFrame:
    return pl.DataFrame([
        {
            "model": "m", "arm": arm, "mitigation": mitigation, "size": size, "seed": seed, "run": f"{arm}-{mitigation}-{size}-{seed}",
            "step": step, "bias": 60.0 - step / 10, "margin_shift": 0.01 * step, "selective": 0.01 * step,
            "overall": 0.002 * step * (1 + seed), "kl": 0.001 * step, "downstream_change": -0.02 * step if step != 10 else None,
        }
        for arm in ("cda0", "cda2") for mitigation in (("plain", "kl") if arm == "cda2" else ("plain",)) for size in (10, 100)
        for seed in (0, 1) for step in (0, 10, 30)
    ])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tradeoff")
    table, model = checkpoints(), pl.lit("m").alias("model")
    interval = {"low": -0.9, "high": -0.5, "note": ""}
    none = {"low": None, "high": None}
    matched = {
        "share": 0.5, "at": 0.1, "first": 0.2, "second": 0.3, "difference": -0.1, **none, "pairs": 4, "clusters": 2, "first_short": 1,
        "second_short": 0, "note": "2 seeds, -0.2 to 0",
    }
    finding = {"model": "m", "claim": "this drives that", "figure": "correlation"}
    coupled = {"score": "downstream_change", "points_of": "all arms", "over": "run", "figure": "pearson", "value": -0.7, "points": 8,
               "clusters": 12, **interval}
    less_control = {"arm": "cda2", "against": "cda0", "figure": "overall", "step": 30, "difference": 0.1, "pairs": 4, **interval}
    words = {"headline": "One was found.", "kind": "measured", "sentences": [EVIL], "limits": ["few"]}
    tables = {
        "checkpoints": table,
        "runs": pl.DataFrame([{"run": "cda2-plain-10-0", "status": "failed", "reason": EVIL, "seconds": None}],
                             schema_overrides={"seconds": pl.Float64()}),
        "findings": pl.DataFrame([
            {**finding, "finding": "1", "decision": "supported", "value": -0.7, **interval},
            {**finding, "finding": "2", "decision": "not decided", "value": None, **none, "note": ""},
        ]),
        "coupling": pl.DataFrame([coupled]),
        "slopes": pl.DataFrame([{"x": "selective", "points_of": "all", "over": "run", "value": 0.2, "clusters": 12, **interval}]),
        "arms": pl.DataFrame([{"compared": "anti", "with": "cda2", "figure": "overall", **matched}]),
        "sizes": pl.DataFrame([{"arm": "cda2", "compared": "100", "with": "10", "figure": "overall", **matched}]),
        "mitigations": pl.DataFrame([{"arm": "cda2", "compared": "kl", "with": "plain", "figure": "downstream_change", **matched}]),
        "objective": pl.DataFrame([less_control]),
        "strata": table.filter(pl.col("step") == 30).select(
            "arm", "mitigation", "size", "seed", "step", pl.lit("no group word").alias("stratum"), pl.lit(10).alias("tokens"),
            pl.lit(0.5).alias("share"), pl.lit(0.25).alias("per_token"), pl.lit(0.125).alias("contribution"),
        ),
    }
    for name, rows in tables.items():
        write_table(rows if "model" in rows.columns else rows.select(model, pl.all()), place / "tables" / f"{name}.parquet")
    write_json(place / "tables" / "verdict.json", words)
    write_json(place / "tradeoff.json", {
        "kind": "tradeoff", "axes": {"arm": ["cda0", "cda2"]}, "seeds": [0, 1], "steps": [10, 30], "cells": {"done": 11, "failed": 1},
        "benchmarks": [{"name": "starter", "protocol": "sum", "caution": "for a first look"}], "versions": {"fairforget": "0.1.0"},
        "datasets": [{"name": "starter", "licence": "Apache-2.0", "citation": "Shipped.", "content_warning": True}],
        "started": "2026-01-15T10:20:30+00:00", "seconds": 412.7, "command": "fairforget study tradeoff mine.yaml",
    })
    (place / "tradeoff.yaml").write_text(json.dumps({"steps": 30}), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_names_no_outside_resource(page):
    assert not page.unbalanced
    assert not page.stack
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(identifiers).values()) == 1
    assert all(anchor["href"].removeprefix("#") in identifiers for anchor in page.all("a"))
    assert len(page.all("caption")) == len(page.all("table")) > 8
    assert not any("src" in attributes for _, attributes in page.tags)


def test_words_and_verdicts_come_first_and_every_section_is_there(page, folder):
    sections = [section["aria-labelledby"].removesuffix("-title") for section in page.all("section")]
    assert sections == ["verdict", "findings", "run", "model-1", "cells", "limits", "provenance", "licences"]
    text = (folder / "tradeoff.html").read_text(encoding="utf-8")
    assert "this drives that" in text
    assert "−0.9" in text
    assert "kl − plain" in text
    assert "100 − 10" in text
    assert "1 runs do not get there" in text
    assert EVIL not in text
    holders = [attributes["aria-label"] for attributes in page.all("div") if "data-chart" in attributes]
    assert len(holders) == 3  # arms, downstream, mitigations
    assert "cda2, 10 texts: margin shift +0.300, overall forgetting +0.090" in holders[0]


def test_paths_are_means_over_seeds():
    means = mean_paths(checkpoints().filter(pl.col("mitigation") == "plain"), "arm")
    row = means.filter((pl.col("arm") == "cda2") & (pl.col("size") == 10) & (pl.col("step") == 30)).row(0, named=True)
    assert (row["seeds"], row["overall"]) == (2, pytest.approx(0.09))
    drawn = json.dumps(path_chart(means, "arm"))
    assert drawn.count('"path": "cda2"') == drawn.count('"path": "cda0"') > 0
    assert path_chart(means.filter(pl.col("step") == 0), "arm") is None
    assert coupling_chart(checkpoints().with_columns(downstream_change=pl.lit(None, pl.Float64))) is None


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(FairforgetError, match="holds no trade-off study"):
        write_tradeoff_page(tmp_path)
