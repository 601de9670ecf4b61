"""``fairforget chain``: stages of tuning in several orders, and what each made the model forget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairforget.cli.terminal import print_paths, print_table, print_verdict, say, working

if TYPE_CHECKING:
    from fairforget.workflows.chain import ChainResult

NAME = "chain"


def command(
    recipe: Annotated[Path, typer.Argument(help="YAML file of the chain.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the chain; the same command goes on in it. [default: runs/chain-RECIPE]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the states and what is left to do; run nothing.")] = False,
) -> None:
    """Tune in stages, audit after each, and account for what every stage made the model forget, by task and group."""
    from fairforget.workflows.chain import chain, plan_chain

    place = out or Path("runs") / f"chain-{recipe.stem}"
    if dry_run:
        planned = plan_chain(recipe, place)
        rows = [(str(entry.seed), entry.path, "finished" if entry.finished else "to do") for entry in planned]
        print_table(("seed", "stages", "state"), rows, f"{len(planned)} states")
        return
    with working():
        result = chain(recipe, place, say=say)
    _print(result)


def _print(result: ChainResult) -> None:
    from fairforget.report.run_folder import Verdict, read_record
    from fairforget.workflows.chain_words import forgetting_words

    words = read_record(result.folder / "tables" / "verdict.json", Verdict)
    print_verdict(words.headline, words.sentences)
    headers = ("path", "task", "until", "before → after", "forgotten", "nats an item", "p (clusters)")
    rows = [forgetting_words(row) for row in result.tables["forgetting"].iter_rows(named=True)]
    print_table(headers, rows, "what became of each task that was taught, test part (95 % intervals in brackets)")
    print_paths([("page", result.page), ("tables", result.folder / "tables")])
