"""Two audits side by side: paired differences on the items that both scored, without any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from fairforget.benchmarks import resolve
from fairforget.benchmarks._evaluate import evaluate
from fairforget.errors import UsageError
from fairforget.forgetting import Step, build_ledger
from fairforget.report import write_report
from fairforget.tables import read_table, write_table
from fairforget.workflows.audit import resolve_choices
from fairforget.workflows.ledger_tables import write_ledger_tables
from fairforget.workflows.run_folder import RunFolder, read_json
from fairforget.workflows.suites import names_a_suite
from fairforget.workflows.verdict import compare_verdict

Pair: TypeAlias = tuple[pl.DataFrame, pl.DataFrame]
"""Item tables of one benchmark before and after."""

_READERS = ("tokenizer_hash", "template_hash")


def compare(
    first: Path | str, second: Path | str, *, benchmarks: Sequence[str] = (), out: Path | str | None = None, resamples: int = 10_000,
    seed: int = 0, say: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """Compare the audits in two run folders; of a debiasing run the edited state counts.

    Args:
        first: the run that differences are taken from.
        second: the run that is compared with it.
        benchmarks: names or suites; only what these name is compared. All that both runs hold when empty.
        out: folder for tables and page; nothing is written when None.
        resamples: bootstrap resamples.
        seed: of the resamples.
        say: told how much is compared.

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
    if benchmarks:
        family = str(runs[0][0]["model"]["family"])
        wanted = {benchmark.name for benchmark in resolve_choices(list(benchmarks), family)}
        kept = [name for name in shared if name in wanted]
        if not kept:
            raise UsageError(f"{first} and {second} share none of {', '.join(sorted(wanted))}: they share {', '.join(shared)}.")
        shared = kept
    frames: list[pl.DataFrame] = []
    pairs: list[Pair] = []
    for name in shared:
        before, after = (items.filter(pl.col("benchmark") == name) for _, items in runs)
        pairs.append((before, after))
    items = sum(before.height for before, _ in pairs)
    if names_a_suite(benchmarks):
        say(f"Estimate: {items:,} items and {resamples:,} resamples of each figure; no model is run, so this takes seconds to minutes.")
    for name, (before, after) in zip(shared, pairs, strict=True):
        frames.append(evaluate(resolve(name, settings[0][name]), before, after, resamples=resamples, seed=seed))
    metrics = pl.concat(frames)
    if out is not None:
        records = [record for record, _ in runs]
        used = [entry for entry in records[0]["benchmarks"] if entry["name"] in shared]
        write_comparison(
            Path(out), (str(first), str(second)), (records[0]["model"], records[1]["model"]), used,
            [entry for entry in records[0]["datasets"] if any(entry["name"] in one["datasets"] for one in used)], metrics, pairs, seed,
            resamples=resamples, states=(records[0].get("state"), records[1].get("state")),
        )
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


def write_comparison(
    path: Path, names: tuple[str, str], models: tuple[Mapping[str, Any], Mapping[str, Any]], benchmarks: Sequence[Mapping[str, Any]],
    datasets: Sequence[Mapping[str, Any]], metrics: pl.DataFrame, pairs: Sequence[Pair], seed: int, *, resamples: int,
    states: tuple[str | None, str | None] = (None, None), options: Mapping[str, Any] | None = None, warnings: Sequence[str] = (),
) -> None:
    """Write tables, ledger, verdict, record and page of a comparison.

    Args:
        path: the folder.
        names: of what is compared: two folders.
        models: what ``run.json`` says of both models; states of one model have one base hash.
        benchmarks: what it says of the benchmarks.
        datasets: what it says of their data.
        metrics: of both and their paired differences.
        pairs: item tables before and after, one pair a benchmark.
        seed: of the resamples.
        resamples: of the intervals of what was forgotten.
        states: ids of the two states, where they are known.
        options: further choices that the folder keeps to.
        warnings: what the page says beside the figures.

    Raises:
        UsageError: the folder holds another run.
        DataError: the items of a pair are not the same.
    """
    folder = RunFolder(path)
    recipe = f"# a comparison; run it again with `fairforget compare`\nfirst: {names[0]}\nsecond: {names[1]}\nseed: {seed}\n"
    recipe += "".join(f"{name}: {value}\n" for name, value in (options or {}).items())
    with folder.opened(recipe):
        write_table(metrics, folder.tables / "metrics.parquet")
        befores, afters = (list(tables) for tables in zip(*pairs, strict=True))
        same = models[0]["base_hash"] is not None and models[0]["base_hash"] == models[1]["base_hash"]
        shared: dict[str, Any] = {name: models[0].get(name) for name in _READERS if models[0].get(name) == models[1].get(name)}
        step = Step(stage_name=Path(names[1]).name, state_before=states[0], state_after=states[1], **shared)
        ledger = build_ledger(pl.concat(befores), pl.concat(afters), same_model=same, step=step)
        same_tokens = ledger["tokens_before"].eq_missing(ledger["tokens_after"]).all()
        write_ledger_tables(ledger, folder, same_tokens=same_tokens, resamples=resamples, seed=seed)
        folder.write_items("base", "test", befores)
        folder.write_items("edited", "test", afters)
        compare_verdict(metrics, *names).write(folder.tables / "verdict.json")
        folder.write_record({
            "kind": "compare",
            "model": models[0],
            "other_model": models[1],
            "runs": list(names),
            "benchmarks": list(benchmarks),
            "datasets": list(datasets),
            "seed": seed,
            "warnings": list(warnings),
        })
        write_report(folder.path)
