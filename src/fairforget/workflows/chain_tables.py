"""Every table of a chain: pure functions of its ledger (and, for the strengths of a stage, of item tables), with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fairforget.benchmarks import Benchmark
from fairforget.errors import FairforgetError
from fairforget.forgetting import (
    continuous_forgetting,
    end_state,
    gain_normalised_table,
    net_forgetting,
    order_effect,
    recovery_table,
    selective_forgetting,
    span,
    task_matrix,
    tokens_per_text,
    transition_paths,
)
from fairforget.stats import Components, Interval, over_seeds
from fairforget.tables import write_table
from fairforget.workflows.chain_benchmarks import benchmark_tables
from fairforget.workflows.chain_probe_tables import (
    attribution_table,
    curvature_coupling,
    curvature_table,
    matched_table,
    relearning_table,
    strength_table,
)
from fairforget.workflows.chain_recipe import ChainRecipe, Node, Stage
from fairforget.workflows.ledger_tables import biased_tables
from fairforget.workflows.run_folder import RunFolder

Tables = dict[str, pl.DataFrame]

_FIGURES = {"correct": "share right", "nll": "nats an item", "prefers_stereotype": "share of stereotypes"}


def write_chain_tables(
    recipe: ChainRecipe, paths: Mapping[str, Sequence[Node]], tasks: Mapping[str, Sequence[str]], benchmarks: Sequence[Benchmark],
    ledger: pl.DataFrame, folder: RunFolder, place: Callable[[Node, int], Path],
) -> Tables:
    """Make and write all tables.

    Args:
        recipe: of the chain.
        paths: states of every path.
        tasks: tasks of the ledger by the chain's name for them.
        benchmarks: what was audited beside them.
        ledger: of all paths and seeds.
        folder: of the chain.
        place: folder of a state.

    Returns:
        ``scores`` (every task after every stage), ``matrix`` (figures of the task matrix), ``forgetting`` (of every task taught
        before), ``groups`` and ``dispersion`` (biased forgetting), ``transitions`` (what became of the items over all stages),
        ``likelihood`` (nats and drift of every task by every stage), ``selective`` (of the bias tasks), ``order``, ``gains``, ``recovery``;
        ``metrics`` and ``changes`` of :mod:`fairforget.workflows.chain_benchmarks`; and those of
        :mod:`fairforget.workflows.chain_probe_tables`, empty where they were not asked for.
    """
    account = ChainAccount(recipe, {name: [node.stage for node in nodes] for name, nodes in paths.items()}, tasks, ledger)
    tables = account.tables()
    tables["metrics"], tables["changes"] = benchmark_tables(recipe, paths, benchmarks, folder.path / "base", place)
    tables["strengths"] = strength_table(recipe, paths, place)
    tables["matched"] = matched_table(recipe, tables["strengths"], paths, tasks)
    tables["curvature"] = curvature_table(recipe, paths, tasks, ledger, place)
    tables["coupling"] = curvature_coupling(tables["curvature"])
    tables["attribution"], tables["completeness"] = attribution_table(recipe, paths, place)
    tables["relearning"], tables["relearned"] = relearning_table(recipe, paths, tasks, tables["scores"], place)
    for name, table in tables.items():
        write_table(table, folder.tables / f"{name}.parquet")
    return tables


class ChainAccount:
    """The figures of a chain.

    Args:
        recipe: of the chain.
        paths: stages of every path.
        tasks: tasks of the ledger by the chain's name for them.
        ledger: of all paths and seeds.
    """

    def __init__(
        self, recipe: ChainRecipe, paths: Mapping[str, Sequence[Stage]], tasks: Mapping[str, Sequence[str]], ledger: pl.DataFrame
    ) -> None:
        self.recipe, self.paths, self.tasks, self.ledger = recipe, paths, tasks, ledger
        self.options: dict[str, Any] = {"resamples": recipe.resamples, "seed": recipe.seed}

    def tables(self) -> Tables:
        """All tables by name.

        Raises:
            FairforgetError: a stage that did nothing is said to have changed something, so the account is wrong.
        """
        self._nothing_is_nothing()
        groups, spread = self.biased()
        gains = self.gains()
        return {
            "scores": self.scores(), "matrix": self.matrix(gains), "forgetting": self.forgetting(), "groups": groups, "dispersion": spread,
            "transitions": transition_paths(self.ledger), "likelihood": self.likelihood(),
            "selective": self.selective(), "order": self.order(), "gains": gains, "recovery": self.recovery(),
        }

    def learned(self, path: str) -> dict[str, int]:
        """By task of the ledger, the stage (from 1) that taught it first."""
        found: dict[str, int] = {}
        for number, stage in enumerate(self.paths[path], start=1):
            for task in self.tasks.get(stage.task or "", ()):
                found.setdefault(task, number)
        return found

    def scores(self) -> pl.DataFrame:
        """Every figure of every task before the first and after each stage, with intervals over items (and seeds, from five on)."""
        rows: list[dict[str, Any]] = []
        for path, stages in self.paths.items():
            own = self.ledger.filter((pl.col("run") == path) & pl.col("skipped").is_null())
            for number in range(len(stages) + 1):
                part = own.filter(pl.col("stage") == max(number, 1))
                side = "before" if number == 0 else "after"
                name = "base" if number == 0 else stages[number - 1].title
                for (task,), inside in part.group_by(["task"], maintain_order=True):
                    facts = {"path": path, "stage": number, "stage_name": name, "task": str(task)}
                    rows += [facts | row for row in self._levels(inside, side)]
        return pl.DataFrame(rows, infer_schema_length=None)

    def _levels(self, rows: pl.DataFrame, side: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for figure, unit in _FIGURES.items():
            held = rows.filter(pl.col(f"{figure}_{side}").is_not_null())
            if held.is_empty():
                continue
            components = Components(
                held[f"{figure}_{side}"].to_numpy().astype(np.float64)[:, None], np.ones((held.height, 1)),
                held["cluster"].fill_null("").rank("dense").to_numpy(), held["stratum"].fill_null("").rank("dense").to_numpy(),
            )
            measured = over_seeds(components, held["seed"].to_numpy(), **self.options)
            found.append({"figure": figure, "unit": unit, **_ends(measured.interval, measured.by_seed)})
        return found

    def matrix(self, gains: pl.DataFrame) -> pl.DataFrame:
        """Figures of the task matrix of each path: forgetting (first, max, from the base), retention, gain-normalised; BWT and FWT.

        Args:
            gains: from :meth:`gains`: a share of what was taught is told only where this is surely above 0.
        """
        rows: list[dict[str, Any]] = []
        for path in self.paths:
            learned = self.learned(path)
            own = self.ledger.filter(pl.col("run") == path)
            if not learned or own["correct_before"].null_count() == own.height:
                continue
            found = task_matrix(own, learned)
            shares = {row["task"]: row for row in gains.filter(path=path, group="all").iter_rows(named=True)} if gains.height else {}
            columns = {
                "forgetting_first": found.forgetting_first(), "forgetting_max": found.forgetting_max(),
                "forgetting_from_base": found.forgetting_from_base(), "retention": found.retention(),
            }
            for number, task in enumerate(found.tasks):
                share = shares.get(task, {})
                rows.append({
                    "path": path, "task": task, "taught": learned.get(task),
                    **{name: float(values[number]) for name, values in columns.items()},
                    "gain_normalised": share["share"] if share.get("defined") else None,
                    "bwt": found.bwt(), "fwt": found.fwt() if any(stage > 1 for stage in learned.values()) else None,
                    "note": "" if share.get("defined") else share.get("note"),
                })
        return pl.DataFrame(rows, schema_overrides={"gain_normalised": pl.Float64(), "note": pl.String()}, infer_schema_length=None)

    def forgetting(self) -> pl.DataFrame:
        """What became of each taught task by every later stage: lost, gained, net with interval and tests, and nats."""
        rows: list[dict[str, Any]] = []
        for path, stages in self.paths.items():
            for task, taught in self.learned(path).items():
                for until in range(taught + 1, len(stages) + 1):
                    account = self.span(path, task, taught + 1, until)
                    facts = {
                        "path": path, "task": task, "taught": taught, "until": until, "by": stages[until - 1].title,
                    }
                    net = net_forgetting(account, **self.options)
                    if net.is_empty():
                        continue
                    likelihood = continuous_forgetting(account, **self.options).row(0, named=True)
                    kept = ("per_item", "per_item_low", "per_item_high")
                    figures = {name: value for name, value in net.row(0, named=True).items() if name not in ("run", "stage", "task")}
                    rows.append(facts | figures | {name: likelihood[name] for name in kept})
        return pl.DataFrame(rows, infer_schema_length=None)

    def likelihood(self) -> pl.DataFrame:
        """Nats and drift of every task by every stage, the stage's name under ``by``."""
        names = self.ledger.select("run", "stage", by="stage_name").unique()
        return continuous_forgetting(self.ledger, **self.options).join(names, on=["run", "stage"], how="left", maintain_order="left")

    def selective(self) -> pl.DataFrame:
        """What every stage made of each bias task's stereotypes, their counterparts and running text, nats a text.

        Selective forgetting needs running text among the benchmarks (``perplexity``); without it there are the other figures.
        """
        tables: list[pl.DataFrame] = []
        stages = self.ledger.filter(pl.col("skipped").is_null()).partition_by("run", "stage", maintain_order=True)
        for own in stages:
            text = own.filter(pl.col("benchmark") == "perplexity")
            for part in own.filter((pl.col("role") == "bias") & (pl.col("options") >= 2)).partition_by(
                "benchmark", "protocol", "part", "task", maintain_order=True
            ):
                found = selective_forgetting(
                    part, text if text.height else None, tokens_per_text=tokens_per_text(part), by_group=True, **self.options
                )
                facts = part.select(path="run", stage="stage", by="stage_name", benchmark="benchmark", task="task").row(0, named=True)
                tables.append(found.select(*(pl.lit(value).alias(name) for name, value in facts.items()), pl.all()))
        return pl.concat(tables, how="diagonal_relaxed") if tables else pl.DataFrame()

    def biased(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Biased forgetting of the tasks that have groups, by the stage after the one that taught them and by the whole rest of the path.

        Returns:
            A row for each group, and a row for each account with the dispersion; axis, scale and account in both.
        """
        groups: list[pl.DataFrame] = []
        spread: list[dict[str, Any]] = []
        for path, stages in self.paths.items():
            for task, taught in self.learned(path).items():
                for until in sorted({taught + 1, len(stages)}):
                    if until <= taught or until > len(stages):
                        continue
                    facts = {"path": path, "task": task, "taught": taught, "until": until, "by": stages[until - 1].title}
                    rows, found = biased_tables(self.span(path, task, taught + 1, until), facts, self.options)
                    groups += rows
                    spread += found
        return (
            pl.concat(groups, how="diagonal_relaxed") if groups else pl.DataFrame(),
            pl.DataFrame(spread, infer_schema_length=None) if spread else pl.DataFrame(),
        )

    def order(self) -> pl.DataFrame:
        """Order effect and end-state contrast of every two tasks that were taught in both orders."""
        rows: list[dict[str, Any]] = []
        plain: dict[tuple[str | None, str | None], str] = {}
        for path, stages in self.paths.items():
            if len(stages) >= 2 and all(_is_plain(stage) for stage in stages[:2]):
                plain.setdefault((stages[0].task, stages[1].task), path)  # a way of its own of running a stage is no order
        for (first, second), path in plain.items():
            back = plain.get((second, first))
            if back is None or first == second or not self._safety_first(first, second, plain):
                continue
            assert first is not None and second is not None
            for one in self.tasks[first]:
                for other in self.tasks[second]:
                    effect = order_effect(self.span(path, one, 2, 2), self.span(back, other, 2, 2), **self.options)
                    facts = {"first": path, "second": back, "safety": one, "capability": other}
                    rows += [
                        facts | {"figure": name, **_ends(interval)}
                        for name, interval in (
                            ("F(safety)", effect.safety), ("F(capability)", effect.capability), ("order effect", effect.difference),
                        )
                    ]
                    contrast = end_state(self.span(path, one, 2, 2), self.span(back, one, 2, 2), **self.options)
                    ends = {"figure": "end-state contrast", **_ends(contrast.difference), "p_sign_flip": contrast.flips.p_value}
                    rows.append(facts | ends)
        return pl.DataFrame(rows, infer_schema_length=None)

    def _safety_first(self, first: str | None, second: str | None, plain: Mapping[Any, str]) -> bool:
        """Whether this is the order to tell: safety first, or, where both are on one side, the order that comes first in the recipe."""
        sides = [self.recipe.tasks[name].side for name in (first, second) if name is not None]
        if sides[0] != sides[1]:
            return sides[0] == "safety"
        return list(plain).index((first, second)) < list(plain).index((second, first))

    def gains(self) -> pl.DataFrame:
        """Share of what a stage taught that later stages took away, over all items and by group."""
        tables: list[pl.DataFrame] = []
        for path, stages in self.paths.items():
            for task, taught in self.learned(path).items():
                if taught < len(stages):
                    learning, loss = self.span(path, task, 1, taught), self.span(path, task, taught + 1, len(stages))
                    table = gain_normalised_table(learning, loss, **self.options)
                    tables.append(table.with_columns(path=pl.lit(path), task=pl.lit(task)))
        return pl.concat(tables, how="diagonal_relaxed") if tables else pl.DataFrame()

    def recovery(self) -> pl.DataFrame:
        """Share of what was lost that a replay stage brought back, over all items and by group; and what it cost the task before it."""
        tables: list[pl.DataFrame] = []
        for path, stages in self.paths.items():
            for number, stage in enumerate(stages, start=1):
                for task in self.tasks.get(stage.replay or "", ()):
                    taught = self.learned(path).get(task)
                    if taught is None or number < taught + 2:
                        continue
                    loss, replay = self.span(path, task, taught + 1, number - 1), self.span(path, task, number, number)
                    table = recovery_table(loss, replay, **self.options)
                    tables.append(table.with_columns(path=pl.lit(path), task=pl.lit(task), stage=pl.lit(stage.title)))
        return pl.concat(tables, how="diagonal_relaxed") if tables else pl.DataFrame()

    def span(self, path: str, task: str, first: int, last: int) -> pl.DataFrame:
        """The account of one task over some stages of a path."""
        return span(self.ledger.filter((pl.col("run") == path) & (pl.col("task") == task)), first, last)

    def _nothing_is_nothing(self) -> None:
        for path, stages in self.paths.items():
            for number, stage in enumerate(stages, start=1):
                if stage.nothing:
                    own = self.ledger.filter((pl.col("run") == path) & (pl.col("stage") == number))
                    moved = own.filter((pl.col("lost") != 0) | (pl.col("gained") != 0) | (pl.col("nll_change") != 0))
                    if moved.height:
                        raise FairforgetError(
                            f"The stage that does nothing changed {moved.height} items of '{path}': the chain's folder was tampered with. "
                            "Start anew in another folder."
                        )


def _is_plain(stage: Stage) -> bool:
    """Whether a stage teaches a task as the chain teaches all of them."""
    return stage.task is not None and stage.model_dump(exclude_defaults=True, exclude={"name"}) == {"task": stage.task}


def _ends(interval: Interval, by_seed: Mapping[int, float] | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "value": interval.value, "low": interval.low, "high": interval.high, "n": interval.items, "clusters": interval.clusters,
        "note": interval.note,
    }
    if by_seed and len(by_seed) > 1:
        row |= {"seed_low": min(by_seed.values()), "seed_high": max(by_seed.values())}
    return row
