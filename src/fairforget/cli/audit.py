"""``fairforget audit``: measure one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.loading import Loading, loads_model
from fairforget.cli.terminal import print_metrics, print_paths, print_verdict, say, working

NAME = "audit"


@loads_model
def command(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file, adapter folder or built-in name.")] = "smollm2-135m",
    benchmarks: Annotated[
        str,
        typer.Option(
            help="Names, name:preset, lm-eval:TASK, ./mine.yaml or a suite (quick, standard, full), comma-separated; see `fairforget list "
            "benchmarks` and `list suites`."
        ),
    ] = "starter",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="BENCHMARK.FIELD=VALUE", help="Set a field of a benchmark, e.g. bbq.category=Age; repeatable."),
    ] = None,
    edit: Annotated[Path | None, typer.Option(help="Folder of a saved edit to put on the model first.")] = None,
    strength: Annotated[float | None, typer.Option(help="Strength of the edit. [default: the one it was saved at]")] = None,
    part: Annotated[str, typer.Option(help="test (reported), select, or all (for parity with figures published on it).")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder of tables and page. [default: runs/audit-MODEL]")] = None,
    resamples: Annotated[int, typer.Option(min=200, help="Bootstrap resamples of every interval.")] = 10_000,
    *,
    loading: Loading,
) -> None:
    """Measure one model: all chosen benchmarks, every figure with its interval."""
    from fairforget.errors import UsageError, unknown_name
    from fairforget.workflows.audit import audit, resolve_choices
    from fairforget.workflows.recipe import choices_with_settings

    if part not in ("test", "select", "all"):
        raise unknown_name("part", part, ("test", "select", "all"))
    if strength is not None and edit is None:
        raise UsageError("--strength is that of an edit: name one with --edit.")
    chosen = choices_with_settings([name.strip() for name in benchmarks.split(",") if name.strip()], settings or ())
    resolve_choices(chosen)  # a wrong name or setting is told before a model is loaded
    with working():
        loaded, label = loading.load_edited(model, edit, strength)
        result = audit(
            loaded, chosen, part=part, out=out or Path("runs") / f"audit-{label}", resamples=resamples, seed=loading.seed or 0, say=say
        )
    assert result.folder is not None
    for note in loaded.notes:
        say(f"Note: {note}")
    print_run(result.folder)
    print_metrics(result.metrics)
    print_paths([("page", result.folder / "report.html"), ("tables", result.folder / "tables")])


def print_run(folder: Path) -> None:
    """Print the verdict that a run wrote."""
    from fairforget.report.run_folder import read_run_folder

    verdict = read_run_folder(folder).verdict
    if verdict is not None:
        print_verdict(verdict.headline, verdict.sentences)
