"""The tables of the trade-off study: every checkpoint of every run as rows, and the analyses that are functions of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.errors import DataError
from fairforget.forgetting.coupling import COUPLING_SCHEMA, FEWEST_RUNS, coupling, slope
from fairforget.forgetting.matched_bias import MATCHED_SCHEMA, common_level, difference_by_step, matched_comparison
from fairforget.stats.over_seeds import FEWEST_SEEDS
from fairforget.tables import read_table, write_table
from fairforget.workflows.run_folder import read_json
from fairforget.workflows.study_jobs import StudyFolder, failure_sentence
from fairforget.workflows.tradeoff_jobs import (
    BASE_RECORD,
    DOWNSTREAM,
    FIGURES,
    RUN_RECORD,
    base_folder,
    checkpoint_folder,
    run_finished,
)
from fairforget.workflows.tradeoff_measures import CHANGES, downstream_scores
from fairforget.workflows.tradeoff_probes import KINDS
from fairforget.workflows.tradeoff_recipe import CONTROL, PLAIN, TradeoffRecipe, TradeoffRun, label, resolved

_RUN: dict[str, pl.DataType] = {
    "model": pl.String(), "arm": pl.String(), "mitigation": pl.String(), "size": pl.Int64(), "seed": pl.Int64(), "run": pl.String(),
}
"""What names a run in every table."""

CHECKPOINT_SCHEMA: dict[str, pl.DataType] = {
    **_RUN,
    "step": pl.Int64(),  # 0 is the untouched base
    "strength": pl.Float64(),
    "bias_metric": pl.String(),  # TASK.METRIC of `bias`
    "bias": pl.Float64(),
    "bias_neutral": pl.Float64(),
    **{name: pl.Float64() for name in CHANGES},  # nats a text, positive is forgotten; of the first bias task
    "reading": pl.String(),  # of selective_forgetting
    "overall": pl.Float64(),  # overall forgetting, nats a token
    "overall_low": pl.Float64(),
    "overall_high": pl.Float64(),
    "perplexity_ratio": pl.Float64(),
    "kl": pl.Float64(),  # KL(base || tuned), nats a place
    **{f"distance.{kind}": pl.Float64() for kind in (*KINDS, "all")},  # Frobenius norm of the change
    "downstream": pl.Float64(),  # mean main figure of the tasks, points of 100; null where it was not tuned from
    "downstream_change": pl.Float64(),  # less that of the base
}
"""Columns of ``checkpoints.parquet``; ``downstream.TASK`` follow."""

RUN_SCHEMA: dict[str, pl.DataType] = {**_RUN, "status": pl.String(), "reason": pl.String(), "seconds": pl.Float64()}
"""Columns of ``runs.parquet``."""

ANALYSES = ("coupling", "slopes", "arms", "sizes", "objective", "mitigations")
"""Names of the tables of analyses."""

ALL_ARMS = "all arms"
"""Name of the coupling over the checkpoints of all arms together."""

_DONE, _FAILED, _WAITING = "done", "failed", "not run"


def gather(runs: Sequence[TradeoffRun], folder: StudyFolder) -> dict[str, pl.DataFrame]:
    """Rows of every finished run, from the folder alone.

    Returns:
        ``runs``, ``checkpoints``, ``bias`` (every metric), ``changes`` (every bias task), ``strata``.
    """
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in ("runs", "checkpoints", "bias", "changes", "strata")}
    for run in runs:
        named = {name: getattr(run, name) for name in ("model", "arm", "mitigation", "size", "seed")} | {"run": run.name}
        failure = failure_sentence(folder, run.name)
        if not run_finished(folder, run):
            status = _FAILED if failure else _WAITING
            tables["runs"].append({**named, "status": status, "reason": failure or "not finished yet"})
            continue
        seconds = read_json(folder.run(run.name) / RUN_RECORD)["seconds"]
        tables["runs"].append({**named, "status": _DONE, "reason": "", "seconds": seconds})
        _run_rows(run, folder, named, tables)
    frames = {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items() if name not in ("runs", "checkpoints")}
    scores = {name: pl.Float64() for row in tables["checkpoints"] for name in row if name.startswith("downstream.")}
    return {
        "runs": pl.DataFrame(tables["runs"], schema=RUN_SCHEMA),
        "checkpoints": pl.DataFrame(tables["checkpoints"], schema={**CHECKPOINT_SCHEMA, **scores}),
        **frames,
    }


def _run_rows(run: TradeoffRun, folder: StudyFolder, named: Mapping[str, Any], tables: dict[str, list[dict[str, Any]]]) -> None:
    base = read_json(base_folder(folder, run) / BASE_RECORD)
    benchmarks = resolved(run.recipe)
    before: dict[str, float] = base["downstream"]
    facts = {**named, "strength": run.strength}
    base_score = sum(before.values()) / len(before) if before else None
    start = base["figures"]["main"]
    none = {**dict.fromkeys((*CHANGES, "overall", "overall_low", "overall_high"), 0.0), "perplexity_ratio": 1.0, "kl": 0.0}
    none |= {name: start[name] for name in CHANGES if start[name] is None}
    none |= {f"distance.{kind}": 0.0 for kind in (*KINDS, "all")}
    tables["checkpoints"].append({
        **facts, "step": 0, **none, **{name: start[name] for name in ("bias_metric", "bias", "bias_neutral")}, "reading": "the base",
        "downstream": base_score, "downstream_change": None if base_score is None else 0.0,
        **{f"downstream.{task}": value for task, value in before.items()},
    })
    for step in run.recipe.looked_at:
        place = checkpoint_folder(folder, run, step)
        found = read_json(place / FIGURES)
        row = {**facts, "step": step, **found["main"], **{f"distance.{kind}": value for kind, value in found["distance"].items()}}
        if (place / DOWNSTREAM).exists() and base_score is not None:
            scores = downstream_scores(benchmarks.downstream, read_table(place / DOWNSTREAM))
            mean = sum(scores.values()) / len(scores)
            row |= {"downstream": mean, "downstream_change": mean - base_score}
            row |= {f"downstream.{task}": value for task, value in scores.items()}
        tables["checkpoints"].append(row)
        for name in ("bias", "changes", "strata"):
            tables[name] += [{**named, "step": step, **entry} for entry in found[name]]


def analyse(recipe: TradeoffRecipe, checkpoints: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """All analyses of the checkpoints, model by model.

    Args:
        recipe: of the study.
        checkpoints: ``checkpoints.parquet``.

    Returns:
        ``coupling``: correlations of downstream scores with overall forgetting, plain arms together (arms that are one training under two
        names counted once) and one by one; ``slopes``: of
        overall forgetting on selectivity and on the margin shift, plain arms but the control; ``arms``: each arm against the reference
        at equal bias; ``sizes``: each arm on more texts against itself on the fewest, at equal bias, paired by seed; ``objective``: each
        arm less the control at equal steps; ``mitigations``: each against the plain arm at equal bias.
    """
    found: dict[str, list[pl.DataFrame]] = {name: [] for name in ANALYSES}
    for model in recipe.models:
        own = checkpoints.filter(pl.col("model") == label(model))
        plain = own.filter(pl.col("mitigation") == PLAIN)
        if own.is_empty() or plain.is_empty():
            continue
        named = pl.lit(label(model)).alias("model")
        parts = {
            "coupling": _couplings(plain, recipe.resamples), "slopes": _slopes(distinct(plain), recipe.resamples),
            "arms": _arms(recipe, plain), "sizes": _sizes(recipe, plain), "objective": _objective(recipe, plain),
            "mitigations": _mitigations(recipe, own),
        }
        for name, part in parts.items():
            if part is not None:
                found[name].append(part.select(named, pl.all()))
    return {name: pl.concat(parts) if parts else pl.DataFrame() for name, parts in found.items()}


def clusters_of(rows: pl.DataFrame) -> list[tuple[str, int]]:
    """What is resampled and how many it takes: runs, and from five seeds on seeds too (runs of a seed may share texts and a model)."""
    return [("run", FEWEST_RUNS), *([("seed", FEWEST_SEEDS)] if rows["seed"].n_unique() >= FEWEST_SEEDS else [])]


def distinct(checkpoints: pl.DataFrame) -> pl.DataFrame:
    """Checkpoints without those of arms that repeat another's to the last digit, as `anti` does `cda1` where a text has one counterpart.

    Counted twice they would make intervals over runs too narrow.
    """
    same = ["model", "mitigation", "size", "seed", "step", "overall", "margin_shift", "downstream_change"]
    return checkpoints.unique([name for name in same if name in checkpoints.columns], keep="first", maintain_order=True)


def reference_arm(recipe: TradeoffRecipe) -> str | None:
    """The arm that others are compared with at equal bias: ``cda2``, else the first that is no control."""
    names = [arm.name for arm in recipe.arms if arm.name != CONTROL]
    return "cda2" if "cda2" in names else names[0] if names else None


def write_analyses(tables: Mapping[str, pl.DataFrame], folder: Path) -> None:
    """Write tables that have rows; one that has none any more is removed."""
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        if table.width:
            write_table(table, path)
        else:
            path.unlink(missing_ok=True)


def _couplings(plain: pl.DataFrame, resamples: int) -> pl.DataFrame | None:
    """Of every score over all arms; of their mean within each arm too, whose objectives forget in ways of their own."""
    tuned = plain.filter((pl.col("step") > 0) & pl.col("downstream_change").is_not_null())
    scores = ["downstream_change", *(name for name in plain.columns if name.startswith("downstream."))]
    wanted = [(score, ALL_ARMS, distinct(tuned)) for score in scores]
    wanted += [("downstream_change", str(arm), rows) for (arm,), rows in tuned.group_by(["arm"], maintain_order=True)]
    found: list[pl.DataFrame] = []
    for score, arms, rows in wanted:
        for cluster, fewest in clusters_of(plain):
            try:
                part = coupling(rows, score=score, cluster=cluster, fewest=fewest, resamples=resamples)
            except DataError:  # no checkpoint was tuned from, or there is no neutral text
                continue
            named = (pl.lit(score).alias("score"), pl.lit(arms).alias("points_of"), pl.lit(cluster).alias("over"))
            found.append(part.select(*named, *COUPLING_SCHEMA))
    return pl.concat(found) if found else None


def _slopes(plain: pl.DataFrame, resamples: int) -> pl.DataFrame | None:
    points = plain.filter((pl.col("step") > 0) & (pl.col("arm") != CONTROL))
    rows: list[dict[str, Any]] = []
    for x in ("selective", "margin_shift"):
        for within in (False, True):
            for cluster, fewest in clusters_of(plain):
                try:
                    found = slope(points, "overall", x, cluster=cluster, within=within, fewest=fewest, resamples=resamples)
                except DataError:
                    continue
                ends = {name: value if value == value else None for name, value in (("low", found.low), ("high", found.high))}
                rows.append({
                    "x": x, "points_of": "within runs" if within else "all", "over": cluster, "value": found.value, **ends,
                    "points": found.points, "clusters": found.clusters, "note": found.note,
                })
    numbers = {"value": pl.Float64(), "low": pl.Float64(), "high": pl.Float64()}
    return pl.DataFrame(rows, schema_overrides=numbers, infer_schema_length=None) if rows else None


def _figures(rows: pl.DataFrame) -> list[str]:
    return ["overall", *(["downstream_change"] if rows["downstream_change"].is_not_null().any() else [])]


def _arms(recipe: TradeoffRecipe, plain: pl.DataFrame) -> pl.DataFrame | None:
    reference = reference_arm(recipe)
    present = plain["arm"].unique(maintain_order=True).to_list()
    if reference is None or reference not in present:
        return None
    others = [arm for arm in present if arm not in (reference, CONTROL)]
    found = [
        _compared(plain.filter(pl.col("arm").is_in([arm, reference])), arm, reference, "arm", share, recipe.resamples, 0.95)
        for arm in others for share in recipe.matched
    ]
    return pl.concat(found) if found else None


def _sizes(recipe: TradeoffRecipe, plain: pl.DataFrame) -> pl.DataFrame | None:
    """What more texts change: the size takes the place of the arm, so that pairs are runs of one seed."""
    found: list[pl.DataFrame] = []
    for (arm,), rows in plain.filter(pl.col("arm") != CONTROL).group_by(["arm"], maintain_order=True):
        fewest, *more = rows["size"].unique().sort().to_list()
        named = rows.with_columns(texts=pl.col("size").cast(pl.String), size=pl.lit(0, rows.schema["size"]))
        for size in more:
            own = named.filter(pl.col("texts").is_in([str(size), str(fewest)]))
            for share in recipe.matched:
                compared = _compared(own, str(size), str(fewest), "texts", share, recipe.resamples, 0.95)
                found.append(compared.select(pl.lit(str(arm)).alias("arm"), pl.all()))
    return pl.concat(found) if found else None


def _objective(recipe: TradeoffRecipe, plain: pl.DataFrame) -> pl.DataFrame | None:
    present = plain["arm"].unique(maintain_order=True).to_list()
    if CONTROL not in present:
        return None
    found: list[pl.DataFrame] = []
    for arm in present:
        for figure in _figures(plain):
            if arm != CONTROL:
                steps = difference_by_step(plain.filter(pl.col("step") > 0), arm, CONTROL, figure=figure, resamples=recipe.resamples)
                named = (pl.lit(arm).alias("arm"), pl.lit(CONTROL).alias("against"), pl.lit(figure).alias("figure"))
                found.append(steps.select(*named, pl.all()))
    return pl.concat(found) if found else None


def _mitigations(recipe: TradeoffRecipe, own: pl.DataFrame) -> pl.DataFrame | None:
    """Intervals hold jointly over all mitigations, arms and levels of a figure (Bonferroni)."""
    comparisons = [
        (arm, mitigation)
        for arm in recipe.mitigated
        for mitigation in own.filter(pl.col("arm") == arm)["mitigation"].unique(maintain_order=True)
        if mitigation != PLAIN
    ]
    found: list[pl.DataFrame] = []
    level = 1 - 0.05 / max(1, len(comparisons) * len(recipe.matched))
    for arm, mitigation in comparisons:
        rows = own.filter((pl.col("arm") == arm) & pl.col("mitigation").is_in([PLAIN, mitigation]))
        if PLAIN in rows["mitigation"].to_list():
            for share in recipe.matched:
                compared = _compared(rows, mitigation, PLAIN, "mitigation", share, recipe.resamples, level)
                found.append(compared.select(pl.lit(arm).alias("arm"), pl.all()))
    return pl.concat(found) if found else None


def _compared(rows: pl.DataFrame, first: str, second: str, by: str, share: float, resamples: int, level: float) -> pl.DataFrame:
    """Two paths at a share of the margin shift that both mostly reach."""
    at = common_level(rows, share=share, by=by)
    found = matched_comparison(rows, first, second, by=by, at=at, figures=_figures(rows), resamples=resamples, level=level)
    return found.select(pl.lit(first).alias("compared"), pl.lit(second).alias("with"), pl.lit(share).alias("share"), *MATCHED_SCHEMA)
