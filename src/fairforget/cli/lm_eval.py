"""``fairforget import lm-eval`` and ``fairforget export lm-eval``: the way from and to lm-evaluation-harness."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.terminal import print_facts, print_metrics, print_paths, print_verdict


class Role(StrEnum):
    """What the items of a task are."""

    ABILITY = "ability"
    BIAS = "bias"


class Part(StrEnum):
    """Which part of a benchmark."""

    TEST = "test"
    SELECT = "select"
    ALL = "all"


def import_logs(
    before: Annotated[Path, typer.Argument(help="Folder of the first model's logs (lm_eval --log_samples --output_path), or one log.")],
    after: Annotated[Path, typer.Argument(help="The same of the second model.")],
    out: Annotated[Path, typer.Option(help="Folder of tables and page.", show_default=False)],
    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated. [default: all that both hold]", show_default=False)] = "",
    metric: Annotated[
        str | None, typer.Option(help="Metric that says how right an item is. [default: the first of acc, exact_match, em, acc_norm, f1]")
    ] = None,
    filter_name: Annotated[str | None, typer.Option("--filter", help="Filter of the answers, for tasks with several.")] = None,
    group: Annotated[str | None, typer.Option(help="Field of a document with its group, or a list of them.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Field that names a document's template or passage. [default: each its own]")] = None,
    stratum: Annotated[str | None, typer.Option(help="Field within whose values clusters are resampled.")] = None,
    role: Annotated[Role, typer.Option(help="bias: the first option is the stereotype, the second its counterpart.")] = Role.ABILITY,
    resamples: Annotated[int, typer.Option(min=200, help="Bootstrap resamples of every interval.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
) -> None:
    """Compare two models by the sample logs of lm-eval: ledger, page and tables, without any model."""
    from fairforget.workflows.import_lm_eval import import_lm_eval
    from fairforget.workflows.verdict import compare_verdict

    metrics = import_lm_eval(
        before, after, out=out, tasks=_names(tasks), metric=metric, filter_name=filter_name, groups=group, cluster=cluster,
        stratum=stratum, role=role.value, resamples=resamples, seed=seed,
    )
    verdict = compare_verdict(metrics, str(before), str(after))
    print_verdict(verdict.headline, verdict.sentences)
    print_metrics(metrics)
    print_paths([("page", out / "report.html"), ("tables", out / "tables")])


def export_tasks(
    out: Annotated[Path, typer.Option(help="Folder for lm_eval --include_path.", show_default=False)],
    benchmarks: Annotated[
        str, typer.Option(help="Benchmarks of pairs or choices, or ./mine.yaml, comma-separated.")
    ] = "crows-pairs",
    part: Annotated[Part, typer.Option(help="test, select, or all.")] = Part.TEST,
) -> None:
    """Write benchmarks as tasks of lm-eval, to be run with lm_eval --include_path."""
    from fairforget.benchmarks import write_lm_eval_tasks

    names = write_lm_eval_tasks(out, _names(benchmarks), part.value)
    print_facts([("folder", str(out)), ("run", f"lm_eval --include_path {out} --tasks {','.join(names)} ...")])


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
