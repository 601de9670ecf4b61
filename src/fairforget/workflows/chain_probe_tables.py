"""Tables of what a chain measures beside its audits: ways of running a stage at equal gain, curvature, attribution, relearning."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fairforget.forgetting import Step, build_ledger
from fairforget.forgetting.coupling import correlation
from fairforget.forgetting.curvature import change_bound
from fairforget.forgetting.matched_bias import matched_comparison
from fairforget.forgetting.row_loss import OVERALL
from fairforget.tables import read_table
from fairforget.workflows.chain_probes import RECORD, RELEARNED, SPECTRUM, STEP
from fairforget.workflows.chain_recipe import ITEMS, ChainRecipe, Node, strength_items
from fairforget.workflows.run_folder import read_json

Place = Callable[[Node, int], Path]

FEWEST_POINTS = 6
"""Chains below which no correlation of curvature with forgetting is told."""

_SPECTRUM = ("spectral_radius", "lambda_max", "lambda_min", "gradient_norm", "trace_per_parameter")
_STEP = ("group", "tokens", "slope", "half_curvature", "predicted", "measured")
_OUTCOMES = ("measured", "forgetting", "per_item")


def strength_table(recipe: ChainRecipe, paths: Mapping[str, Sequence[Node]], place: Place) -> pl.DataFrame:
    """Along the strength of the second stage of the mitigated path and of its copies, what it made of every task.

    Returns:
        A row per path, seed, strength and task: ``forgetting`` (share right, lost less gained; null for items that are neither right nor
        wrong) and ``nll_change`` (nats an item; null where there is none) against the state before the stage, and for bias tasks
        ``reduction``, by how much the mean margin came nearer to 0.
    """
    rows: list[dict[str, Any]] = []
    for path, nodes in paths.items():
        if len(nodes) < 2 or not nodes[1].strengths:
            continue
        for seed in recipe.seeds:
            start = read_table(place(nodes[0], seed) / ITEMS)
            ends = {strength: place(nodes[1], seed) / strength_items(strength) for strength in nodes[1].strengths}
            for strength, file in {**ends, nodes[1].stage.strength: place(nodes[1], seed) / ITEMS}.items():
                ledger = build_ledger(start, read_table(file), step=Step(run=path, seed=seed, stage_name=nodes[1].stage.title))
                for (task,), part in ledger.filter(pl.col("skipped").is_null()).group_by("task"):
                    bias = part.filter(pl.col("prefers_stereotype_before").is_not_null())
                    before, after = (bias[f"margin_{state}"].mean() for state in ("before", "after"))
                    rows.append({
                        "path": path, "seed": seed, "strength": strength, "task": str(task), "n": part.height,
                        "forgetting": (part["lost"] - part["gained"]).mean(), "nll_change": part["nll_change"].mean(),
                        "reduction": None if before is None else abs(before) - abs(after),  # type: ignore[arg-type]
                    })
    if not rows:
        return pl.DataFrame()
    figures: dict[str, Any] = dict.fromkeys(("forgetting", "nll_change", "reduction"), pl.Float64())
    return pl.DataFrame(rows, schema_overrides=figures, infer_schema_length=None).sort("path", "seed", "strength", "task")


def matched_table(
    recipe: ChainRecipe, strengths: pl.DataFrame, paths: Mapping[str, Sequence[Node]], tasks: Mapping[str, Sequence[str]]
) -> pl.DataFrame:
    """Mitigated copies against the plain path, walked along their strength to where the second stage did equally much.

    What it did is the nats gained of the task that it taught, or, for a debiasing method, by how much the mean margin of the first bias
    task came nearer to 0. Compared is what was forgotten of the first stage's task, in nats an item and as a share of its items.

    Returns:
        A row per mitigation and figure, the columns of ``MATCHED_SCHEMA`` with ``path`` and ``along``.
    """
    name = recipe.mitigated
    if strengths.is_empty() or name is None:
        return pl.DataFrame()
    first, second = paths[name][0].stage, paths[name][1].stage
    if first.task is None:
        return pl.DataFrame()
    taught = tasks[second.task][0] if second.task else next(iter(strengths.filter(pl.col("reduction").is_not_null())["task"]), None)
    if taught is None:
        return pl.DataFrame()
    done = -pl.col("nll_change") if second.task else pl.col("reduction")
    key = ["path", "seed", "strength"]
    walked = strengths.filter(pl.col("task") == taught).select(*key, done=done)
    lost = strengths.filter(pl.col("task") == tasks[first.task][0]).select(*key, "forgetting", "nll_change")
    points = walked.join(lost, on=key).with_columns(size=pl.lit(0)).rename({"strength": "step"})
    starts = points.select("path", "seed", "size").unique().with_columns(
        step=pl.lit(0.0), done=pl.lit(0.0), forgetting=pl.lit(0.0), nll_change=pl.lit(0.0)
    )
    points = pl.concat([points, starts.select(points.columns)]).sort("path", "seed", "step")
    found = [
        matched_comparison(
            points.filter(pl.col("path").is_in([name, other])), other, name, by="path", along="done",
            figures=("nll_change", "forgetting"), resamples=recipe.resamples,
        ).with_columns(path=pl.lit(other), along=pl.lit(f"nats gained of {taught}" if second.task else f"margin reduced of {taught}"))
        for other in dict.fromkeys(points["path"]) if other != name
    ]
    return pl.concat(found) if found else pl.DataFrame()


def curvature_table(
    recipe: ChainRecipe, paths: Mapping[str, Sequence[Node]], tasks: Mapping[str, Sequence[str]], ledger: pl.DataFrame, place: Place
) -> pl.DataFrame:
    """Of every path whose first two stages are trained: curvature where the first ended, along the second's step, and what was forgotten.

    Returns:
        A row per path, seed and group ("all" first): ``spectral_radius``, ``lambda_max``, ``lambda_min``, ``gradient_norm`` and
        ``trace_per_parameter`` (null where it was left out) of the first stage's loss; ``distance``, ``slope``, ``half_curvature``,
        ``predicted`` and ``measured`` change of the group's loss along the step (nats a token); ``bound`` ‖g‖‖Δ‖ + ½ λ_max ‖Δ‖² on the
        change of all rows, null where the spectrum's scope is not all that moved; ``scope``; and in the row of all the seed's own
        ``forgetting`` (share) and ``per_item`` (nats) of the first stage's task.
    """
    rows: list[dict[str, Any]] = []
    covered = recipe.probe.get("scope", "all") == "all"  # what a step can move lies within what the spectrum is of
    for path, nodes in paths.items():
        if len(nodes) < 2 or nodes[0].stage.task is None:
            continue
        for seed in recipe.seeds:
            spectrum, step = place(nodes[0], seed) / SPECTRUM / "curvature.parquet", place(nodes[1], seed) / STEP / "directional.parquet"
            if not spectrum.exists() or not step.exists():
                continue
            figures = {row["figure"]: row for row in read_table(spectrum).iter_rows(named=True)}
            facts: dict[str, Any] = {
                "path": path, "seed": seed, **{name: figures.get(name, {}).get("value") for name in _SPECTRUM},
                "radius_error": figures["spectral_radius"]["error"], "scope": figures["spectral_radius"]["scope"],
            }
            distance = float(read_json(step.with_name(RECORD))["distance"])
            for own in read_table(step).iter_rows(named=True):
                facts |= {"distance": distance, **{name: own[name] for name in _STEP}, "bound": None, "forgetting": None, "per_item": None}
                if own["group"] == OVERALL:
                    bound = change_bound(facts["gradient_norm"], facts["lambda_max"], distance) if covered else None
                    task = tasks[nodes[0].stage.task][0]
                    about = ledger.filter(pl.col("skipped").is_null(), run=path, seed=seed, stage=2, task=task)
                    net = (about["lost"] - about["gained"]).mean()
                    facts |= {"bound": bound, "forgetting": net, "per_item": about["nll_change"].mean()}
                rows.append(dict(facts))
    return pl.DataFrame(rows, infer_schema_length=None)


def curvature_coupling(curvature: pl.DataFrame) -> pl.DataFrame:
    """Spearman's correlation, over paths and seeds, of curvature at the first stage's end with what the second made of its task.

    Returns:
        A row per pair: ``figure``; ``outcome``, which is ``measured`` (change of the training loss), ``forgetting`` (share of the audited
        items) or ``per_item`` (their nats); ``value``, ``points``, ``note``; a description, without an interval: paths share their first
        stages.
    """
    rows: list[dict[str, Any]] = []
    whole = curvature.filter(pl.col("group") == OVERALL) if curvature.height else curvature
    for figure, outcome in itertools.product(("spectral_radius", "half_curvature", "predicted"), _OUTCOMES) if whole.height else ():
        held = whole.filter(pl.col(figure).is_not_null() & pl.col(outcome).is_not_null())
        enough = held.height >= FEWEST_POINTS and held[figure].n_unique() > 1 and held[outcome].n_unique() > 1
        ranks = [held[name].rank().to_numpy() for name in (figure, outcome)]
        value = correlation(*ranks) if enough else float("nan")
        note = "descriptive" if enough else f"{held.height} chains, {FEWEST_POINTS} that differ are needed"
        rows.append({"figure": figure, "outcome": outcome, "value": value, "points": held.height, "note": note})
    schema = {"figure": pl.String(), "outcome": pl.String(), "value": pl.Float64(), "points": pl.Int64(), "note": pl.String()}
    return pl.DataFrame(rows, schema=schema)


def attribution_table(recipe: ChainRecipe, paths: Mapping[str, Sequence[Node]], place: Place) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Nats of the first stage's loss that came through each module, by group, and how nearly they add up; seeds averaged.

    Returns:
        ``path``, ``group``, ``place``, ``nats``; and ``path``, ``group``, ``sum``, ``measured``, ``error``.
    """
    nats: list[pl.DataFrame] = []
    sums: list[pl.DataFrame] = []
    for path, nodes in paths.items():
        for seed in recipe.seeds if len(nodes) > 1 else ():
            folder = place(nodes[1], seed) / STEP
            if (folder / "attribution.parquet").exists():
                own = {"path": pl.lit(path), "seed": pl.lit(seed)}
                nats.append(read_table(folder / "attribution.parquet").with_columns(**own))
                sums.append(read_table(folder / "completeness.parquet").with_columns(**own))
    if not nats:
        return pl.DataFrame(), pl.DataFrame()
    joined = pl.concat(nats, how="diagonal_relaxed")
    means = joined.group_by("path", "group", "place", maintain_order=True).agg(pl.col("nats").mean())
    return means, pl.concat(sums, how="diagonal_relaxed")


def relearning_table(recipe: ChainRecipe, paths: Mapping[str, Sequence[Node]], tasks: Mapping[str, Sequence[str]], scores: pl.DataFrame,
                     place: Place) -> tuple[pl.DataFrame, pl.DataFrame]:
    """How well a task is answered after more and more steps, and after how many the wanted share of what was taught is back.

    Returns:
        ``start``, ``steps``, ``correct``, ``nll`` by seed; and ``start``, ``wanted`` (share right), ``steps`` (interpolated over log(1 +
        steps), null where it was not reached), ``seed``.
    """
    wanted, name = recipe.relearn, recipe.mitigated or next(iter(paths))
    if wanted is None:
        return pl.DataFrame(), pl.DataFrame()
    files = [place(paths[name][-1], seed) / RELEARNED for seed in recipe.seeds]
    curves = pl.concat([read_table(file) for file in files if file.exists()])
    taught = next((number for number, node in enumerate(paths[name], start=1) if node.stage.task == wanted.task), None)
    about = scores.filter((pl.col("path") == name) & (pl.col("figure") == "correct") & pl.col("task").is_in(list(tasks[wanted.task])))
    levels = {row["stage"]: row["value"] for row in about.iter_rows(named=True)}
    goal = levels[0] + wanted.share * (levels[taught] - levels[0]) if taught is not None else float("nan")
    rows = [
        {"seed": seed, "start": start, "wanted": goal, "steps": _steps_to(part.sort("steps"), goal)}
        for (seed, start), part in curves.group_by(["seed", "start"], maintain_order=True)
    ]
    return curves, pl.DataFrame(rows, schema_overrides={"steps": pl.Float64()}, infer_schema_length=None)


def _steps_to(curve: pl.DataFrame, goal: float) -> float | None:
    """Steps at which a curve first reaches a level, interpolated over log(1 + steps); None where it does not."""
    steps, values = np.log1p(curve["steps"].to_numpy()), curve["correct"].to_numpy()
    above = np.flatnonzero(values >= goal)
    if not len(above):
        return None
    place = int(above[0])
    if place == 0:
        return float(curve["steps"][0])
    share = (goal - values[place - 1]) / (values[place] - values[place - 1])
    return float(np.expm1(steps[place - 1] + share * (steps[place] - steps[place - 1])))
