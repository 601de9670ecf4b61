"""``fairforget compare``: two audits side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.terminal import print_metrics, print_paths, print_verdict, say

NAME = "compare"


def command(
    first: Annotated[Path, typer.Argument(help="Run folder that differences are taken from.")],
    second: Annotated[Path, typer.Argument(help="Run folder that is compared with it.")],
    benchmarks: Annotated[
        str,
        typer.Option(help="Compare only these: names or suites, comma-separated. [default: all that both runs hold]", show_default=False),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of tables and page; only printed by default.")] = None,
    resamples: Annotated[int, typer.Option(min=200, help="Bootstrap resamples of every interval.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
) -> None:
    """Compare two runs on the items that both scored: paired differences, second minus first, without any model."""
    from fairforget.workflows.compare import compare
    from fairforget.workflows.verdict import compare_verdict

    wanted = [name.strip() for name in benchmarks.split(",") if name.strip()]
    metrics = compare(first, second, benchmarks=wanted, out=out, resamples=resamples, seed=seed, say=say)
    verdict = compare_verdict(metrics, str(first), str(second))
    print_verdict(verdict.headline, verdict.sentences)
    print_metrics(metrics)
    if out is not None:
        print_paths([("page", out / "report.html"), ("tables", out / "tables")])
