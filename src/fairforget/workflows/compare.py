"""Two audits side by side: paired differences on the items that both scored, without any model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.benchmarks import registry
from fairforget.benchmarks._evaluate import evaluate
from fairforget.errors import UsageError
from fairforget.forgetting import balance, build_ledger
from fairforget.report import write_report
from fairforget.tables import read_table, write_table
from fairforget.workflows.run_folder import RunFolder, read_json
from fairforget.workflows.verdict import compare_verdict


def compare(
    first: Path | str, second: Path | str, *, out: Path | str | None = None, resamples: int = 10_000, seed: int = 0
) -> pl.DataFrame:
    """Compare the audits in two run folders; of a debiasing run the edited state counts.

    Args:
        first: the run that differences are taken from.
        second: the run that is compared with it.
        out: folder for tables and page; nothing is written when None.
        resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        Metrics of both and their paired differences, second minus first; the states are named base and edited.

    Raises:
        UsageError: a folder without a finished run, or runs that share no benchmark with the same settings.
        DataError: the items of a shared benchmark are not the same.
    """
    runs = [_read(Path(folder)) for folder in (first, second)]
    settings = [{entry["name"]: entry["settings"] for entry in record["benchmarks"]} for record, _ in runs]
    shared = [name for name, values in settings[0].items() if settings[1].get(name) == values]
    if not shared:
        raise UsageError(
            f"{first} and {second} share no benchmark with the same settings ({', '.join(settings[0])} against {', '.join(settings[1])}): "
            "audit both with the same --benchmarks."
        )
    frames: list[pl.DataFrame] = []
    pairs: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    for name in shared:
        kind = registry.get(name)
        benchmark = kind(kind.Settings.model_validate(settings[0][name]))
        before, after = (items.filter(pl.col("benchmark") == name) for _, items in runs)
        pairs.append((before, after))
        frames.append(evaluate(benchmark, before, after, resamples=resamples, seed=seed))
    metrics = pl.concat(frames)
    if out is not None:
        _write(Path(out), (str(first), str(second)), [record for record, _ in runs], shared, metrics, pairs, seed)
    return metrics


def _read(folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    run = RunFolder(folder)
    if not run.finished():
        raise UsageError(f"{folder} holds no finished run (no complete run.json): run fairforget audit or debias with --out {folder}.")
    record = read_json(run.record)
    if record["kind"] == "compare":
        raise UsageError(f"{folder} is itself a comparison: compare two audits or debiasing runs.")
    part = record.get("part", "test")
    for state in ("edited", "base"):
        path = run.tables / f"items-{state}-{part}.parquet"
        if path.exists():
            return record, read_table(path, ("benchmark", "task", "item"))
    raise UsageError(f"{folder} has no item table of its {part} part: run the command that made it again.")


def _write(
    path: Path, names: tuple[str, str], records: list[Mapping[str, Any]], shared: list[str], metrics: pl.DataFrame,
    pairs: list[tuple[pl.DataFrame, pl.DataFrame]], seed: int,
) -> None:
    folder = RunFolder(path)
    recipe = f"# a comparison; run it again with `fairforget compare`\nfirst: {names[0]}\nsecond: {names[1]}\nseed: {seed}\n"
    with folder.opened(recipe):
        write_table(metrics, folder.tables / "metrics.parquet")
        befores, afters = (list(tables) for tables in zip(*pairs, strict=True))
        same = records[0]["model"]["base_hash"] == records[1]["model"]["base_hash"]
        ledger = build_ledger(pl.concat(befores), pl.concat(afters), same_model=same)
        balance(ledger)
        write_table(ledger, folder.tables / "ledger.parquet")
        folder.write_items("base", "test", befores)
        folder.write_items("edited", "test", afters)
        compare_verdict(metrics, *names).write(folder.tables / "verdict.json")
        used = [entry for entry in records[0]["benchmarks"] if entry["name"] in shared]
        folder.write_record({
            "kind": "compare",
            "model": records[0]["model"],
            "other_model": records[1]["model"],
            "runs": list(names),
            "benchmarks": used,
            "datasets": [entry for entry in records[0]["datasets"] if any(entry["name"] in one["datasets"] for one in used)],
            "seed": seed,
            "warnings": [],
        })
        write_report(folder.path)
