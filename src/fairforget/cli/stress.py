"""``fairforget stress``: how much of a bias returns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.terminal import print_paths, print_table, say, working

NAME = "stress"
_NONE = "none"


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished debiasing run; results go into its subfolder stress.")],
    relearn_steps: Annotated[
        str, typer.Option(help="Teach the training texts again for so many steps; comma-separated, or none.")
    ] = "10,30,100",
    relearn_rate: Annotated[float, typer.Option(help="Learning rate of the relearning.")] = 5e-4,
    quantise: Annotated[
        str, typer.Option(help="int8, int4 (linear weights to so many bits and back, simulated), nf4 (bitsandbytes), or none.")
    ] = "int8,int4",
    paraphrase: Annotated[
        bool | None,
        typer.Option("--paraphrase/--no-paraphrase", help="Measure the target in other words. [default: where its benchmark can]"),
    ] = None,
    paraphrases: Annotated[Path | None, typer.Option(help="Your own: a file with the columns item, stereotype and anti.")] = None,
) -> None:
    """Stress an edited model: relearning, fewer bits, other words; how much of the reduction is left."""
    from fairforget.errors import UsageError

    try:
        steps = [int(part) for part in _parts(relearn_steps)]
    except ValueError as error:
        raise UsageError(f"--relearn-steps {relearn_steps}: write whole numbers, e.g. 10,30,100, or none.") from error
    with working():
        from fairforget.workflows.stress import stress
        from fairforget.workflows.stress_states import Relearning

        if not 0 < relearn_rate <= 1:
            raise UsageError(f"--relearn-rate {relearn_rate}: a learning rate lies between 0 and 1, e.g. 5e-4.")
        result = stress(
            run, relearn_steps=steps, quantise=_parts(quantise), paraphrase=paraphrase, paraphrases=paraphrases,
            relearning=Relearning.model_validate({"learning_rate": relearn_rate}), say=say,
        )
    from fairforget.workflows.stress_table import HEADERS, stress_words

    rows = [stress_words(row, result.unit) for row in result.table.iter_rows(named=True)]
    print_table(HEADERS, rows, f"{result.target} under stress, test part (95 % intervals in brackets; above 0 is more bias)")
    print_paths([("table", result.folder / "stress.parquet"), ("text", result.folder / "stress.md")])


def _parts(text: str) -> list[str]:
    return [] if text.strip() == _NONE else [part.strip() for part in text.split(",") if part.strip()]
