"""Made-up cells of a study, and a study's folder without any model."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from fairforget.files import write_json
from fairforget.tables import write_table
from fairforget.workflows.scaling import scaling_points, scaling_table
from fairforget.workflows.study_benchmarks import BENCHMARK_SCHEMA
from fairforget.workflows.study_collapse import COLLAPSE_SCHEMA
from fairforget.workflows.study_contrasts import CONTRAST_SCHEMA
from fairforget.workflows.study_jobs import StudyFolder
from fairforget.workflows.study_pool import frontier_table
from fairforget.workflows.study_table import CELL_SCHEMA, write_study_table
from fairforget.workflows.study_words import study_words


def cell(configuration, seed, change, ratio, *, model="m", error=0.1, status="done", parameters=1000, axes=(), **more):
    row = {
        "cell": f"{configuration}-{seed}", "configuration": configuration, "status": status, "verdict": "lowered", "reason": "",
        "seed": seed, "model": model, "method": configuration, "strength": 0.5, "searched": True, "target": "starter:margin",
        "unit": "nats", "parameters": parameters, "target_before": 1.0, "target_after": 1 + change, "target_change": change,
        "target_low": change - 0.2, "target_high": change + 0.2, "target_error": error, "target_clusters": 11,
        "perplexity_ratio": ratio, "perplexity_low": ratio - 0.001, "perplexity_high": ratio + 0.001, "perplexity_error": 0.0005,
        "perplexity_clusters": 11, "budget_percent": 2.0, "seconds": 3.0, "folder": f"runs/{configuration}-{seed}",
        **{f"axis.{name}": value for name, value in dict(axes).items()}, **more,
    }
    if status != "done":
        row |= dict.fromkeys([name for name in row if name.startswith(("target_", "perplexity_"))])
    return row


def table(*rows):
    extra = {name: pl.String() for row in rows for name in row if name.startswith("axis.")}
    return pl.DataFrame(rows, schema={**CELL_SCHEMA, **extra})


def synthetic_contrasts() -> pl.DataFrame:
    """Two ways against a third: one surely nearer to neutral, one not told apart, without an interval in its second figure."""
    one = {
        "against": "m0 · task-vector", "benchmark": "starter", "task": "starter", "metric": "distance from neutral", "unit": "nats",
        "better": "lower", "target": True, "seeds": 2, "planned": 2, "seed_spread": 0.01, "clusters": 40, "note": "",
    }
    cost = {"benchmark": "perplexity", "task": "perplexity-starter", "metric": "perplexity_ratio", "unit": "ratio", "target": False}
    rows = [
        one | {"configuration": "m0 · pcgu", "change": -0.12, "low": -0.2, "high": -0.04, "p": 0.004, "p_holm": 0.008},
        one | {"configuration": "m0 · cda", "change": 0.03, "low": -0.05, "high": 0.11, "p": 0.4, "p_holm": 0.4, "note": "a note"},
        one | cost | {"configuration": "m0 · pcgu", "change": 1.01, "low": 1.004, "high": 1.016, "p": 0.01, "p_holm": 0.02},
        one | cost | {"configuration": "m0 · cda", "change": 1.0, "low": None, "high": None, "p": None, "p_holm": None, "seeds": 1},
    ]
    return pl.DataFrame(rows, schema=CONTRAST_SCHEMA)


def synthetic_benchmarks(frontier: pl.DataFrame) -> pl.DataFrame:
    """CrowS-Pairs falls by five points in every configuration."""
    shared = ("model", "configuration", "method", "seeds", "planned", "cost", "cost_low", "cost_high", "budget_percent")
    figures = {"task": "crows-pairs", "metric": "pct_stereotype", "unit": "%", "neutral": 50.0, "before": 60.0, "change": -5.0, "low": -7.0}
    rows = [figures | {"high": -3.0, "seed_spread": None, **{name: row[name] for name in shared}} for row in frontier.to_dicts()]
    return pl.DataFrame(rows, schema=BENCHMARK_SCHEMA)


def synthetic_collapse(models: int) -> pl.DataFrame:
    """A base and two cells for each model, two word sets, one bias task."""
    rows = [
        {
            "cell": None if way == "base" else f"m{model}-{way}-0", "configuration": way, "model": f"m{model}", "words": words, "seed": 0,
            "strength": 0.5, "unc3": 0.1 + 0.01 * place, "unc3_low": 0.08, "unc3_high": 0.15, "nc3_mean": 0.3, "task": "starter",
            "distance": 1.0 - 0.2 * place, "distance_low": 0.5, "distance_high": 1.5,
        }
        for model in range(models) for words in ("gender", "random") for place, way in enumerate(("base", "pcgu", "cda"))
    ]
    return pl.DataFrame(rows, schema=COLLAPSE_SCHEMA)


def write_synthetic_study(folder: Path, sizes: int = 3) -> Path:
    """Four ways on several sizes of model, two seeds; one cell failed with markup in its reason, one was not run."""
    rows = []
    for size in range(sizes):
        for way, change, cost in (("task-vector", -0.3, 0.012), ("pcgu", -0.2, 0.004), ("cda", -0.1, 0.01), ("ascent", -0.5, 0.3)):
            for seed in (0, 1):
                name, model = f"m{size} · {way}", f"m{size}"
                shift = 0.02 * seed - 0.03 * size
                status = "failed" if way == "cda" and seed else "not run" if way == "ascent" and seed and size else "done"
                reason = {"failed": "Broken: <script>document.title='pwned'</script>", "not run": "one seed is enough", "done": ""}[status]
                more = {"method": way, "parameters": 10 ** (6 + size), "axes": {"model": model, "method": way}, "reason": reason}
                rows.append(cell(name, seed, change + shift, 1 + cost * (1 + 0.2 * seed), model=model, status=status, **more))
    cells = table(*rows)
    done = pl.col("status") == "done"
    cells = cells.with_columns(
        pl.when(done).then(pl.lit(value)).alias(f"crows-pairs.pct_stereotype.{name}")
        for name, value in (("before", 60.0), ("after", 55.0), ("difference", -5.0), ("difference_low", -7.0), ("difference_high", -3.0))
    )
    frontier = frontier_table(cells)
    contrasts = synthetic_contrasts()
    lines = scaling_table(frontier, cells)
    place = StudyFolder(folder)
    write_study_table(cells, place)
    write_table(frontier, place.tables / "frontier.parquet")
    write_table(lines, place.tables / "scaling.parquet")
    write_table(scaling_points(frontier, cells), place.tables / "scaling-points.parquet")
    write_table(synthetic_benchmarks(frontier), place.tables / "benchmarks.parquet")
    write_table(contrasts, place.tables / "contrasts.parquet")
    write_table(synthetic_collapse(sizes), place.tables / "collapse.parquet")
    study_words(cells, frontier, lines, contrasts, "frontier").write(place.tables / "verdict.json")
    counts = {status: cells.filter(pl.col("status") == status).height for status in ("done", "failed", "not run")}
    record = {
        "kind": "study", "study": "frontier", "recipe": "study.yaml", "seeds": [0, 1], "strengths": ["search"], "cells": counts,
        "axes": {"model": [f"m{size}" for size in range(sizes)], "method": ["task-vector", "pcgu", "cda", "ascent"]},
        "benchmarks": [{"name": "starter", "protocol": "sum", "caution": "starter set: for a first look"}],
        "datasets": [{"name": "starter", "licence": "Apache-2.0", "citation": "Shipped.", "content_warning": "Holds mild stereotypes."}],
        "versions": {"fairforget": "0.1.0"}, "git": {"commit": "0123abc"}, "command": "fairforget study study.yaml",
        "started": "2026-01-15T10:20:30+00:00", "seconds": 412.7,
    }
    write_json(place.record, record)
    (folder / "study.yaml").write_text(json.dumps({"kind": "frontier"}), encoding="utf-8")
    return folder
