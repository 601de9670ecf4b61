"""Two folders of lm-eval's sample logs as a comparison, so that models tuned and measured elsewhere have a ledger too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from fairforget.benchmarks import evaluate, resolve
from fairforget.data.lm_eval_logs import items_from_lm_eval, log_filters, logged_model, read_log, sample_logs
from fairforget.errors import DataError, UsageError, unknown_name
from fairforget.workflows.compare import Pair, write_comparison


def import_lm_eval(
    before: Path | str, after: Path | str, *, out: Path | str, tasks: Sequence[str] = (), metric: str | None = None,
    filter_name: str | None = None, groups: str | None = None, cluster: str | None = None, stratum: str | None = None,
    role: Literal["ability", "bias"] = "ability", resamples: int = 10_000, seed: int = 0,
) -> pl.DataFrame:
    """Compare two ``--log_samples`` folders and write tables, ledger and page as :func:`fairforget.compare` does; no model is run.

    Args:
        before: folder of the first model's logs, searched with its subfolders, or one log.
        after: the same of the second model.
        out: folder for tables and page.
        tasks: which tasks; all that both hold when empty.
        metric: which metric of a line says that it is right; when None the first there is of acc, exact_match, em, acc_norm, f1.
        filter_name: lines of which filter, for tasks with several.
        groups: field of a document with its group or a list of them.
        cluster: field that names what a document depends on; each document is a cluster of its own when None.
        stratum: field within whose values clusters are resampled.
        role: ``bias`` where the first option is the stereotype and the second its counterpart.
        resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        Metrics of both and their paired differences, second minus first; the states are named base and edited.

    Raises:
        UsageError: no task is in both, or one is named that is not.
        DataError: a log is missing or damaged, lacks a metric or field, holds several filters, or the two are of other documents.
    """
    places = Path(before).expanduser(), Path(after).expanduser()
    logs = [sample_logs(place) for place in places]
    shared = [task for task in logs[0] if task in logs[1]]
    for task in tasks:
        if task not in shared:
            raise unknown_name("task in both folders", task, shared)
    if not shared:
        held = f"{', '.join(logs[0])} against {', '.join(logs[1])}"
        raise UsageError(f"{before} and {after} share no task ({held}): run the same tasks on both.")
    pairs: list[Pair] = []
    frames: list[pl.DataFrame] = []
    used: list[dict[str, Any]] = []
    for task in tasks or shared:
        benchmark = resolve(f"lm-eval:{task}", {"role": role, "metric": metric, "groups": groups, "cluster": cluster, "stratum": stratum})
        tables = [
            items_from_lm_eval(
                found[task], task=task, metric=metric, filter_name=_filter(found[task], filter_name), groups=groups, cluster=cluster,
                stratum=stratum, role=role, benchmark=benchmark.name,
            )
            for found in logs
        ]
        pairs.append((tables[0], tables[1]))
        frames.append(evaluate(benchmark, *tables, resamples=resamples, seed=seed))
        used.append({
            "name": benchmark.name, "protocol": "; ".join(tables[0]["protocol"].unique(maintain_order=True)),
            "settings": benchmark.settings.model_dump(mode="json"), "datasets": [], "caution": "",
            "description": f"The task {task} of lm-eval, from its logs.",
        })
    metrics = pl.concat(frames)
    left_out = sorted(set(logs[0]) ^ set(logs[1]))
    warnings = [f"Only in one of the two folders, and so left out: {', '.join(left_out)}."] if left_out and not tasks else []
    models = [
        {"name": logged_model(place), "source": str(place), "family": "causal", "base_hash": None} for place in places
    ]
    write_comparison(
        Path(out), (str(before), str(after)), (models[0], models[1]), used, [], metrics, pairs, seed, resamples=resamples,
        warnings=warnings,
        options={"tasks": list(tasks or shared), "metric": metric, "filter": filter_name, "groups": groups, "cluster": cluster,
                 "stratum": stratum, "role": role, "resamples": resamples},
    )
    return metrics


def _filter(path: Path, wanted: str | None) -> str:
    """The filter to read: the one that is wanted where the log holds several, else its only one."""
    known = log_filters(read_log(path))
    if len(known) == 1:
        return known[0]
    if wanted in known:
        return wanted
    raise DataError(f"{path} holds the filters {', '.join(known)}: choose one with --filter.")
