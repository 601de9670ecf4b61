"""``fairforget generate``: what a model writes, before and after an edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairforget.cli.loading import Loading, loads_model
from fairforget.cli.terminal import print_table, working

if TYPE_CHECKING:
    from fairforget.workflows.generate import Output

NAME = "generate"


@loads_model
def command(
    model: Annotated[str, typer.Argument(help="The base model: hub id, folder, .gguf file, adapter folder or built-in name.")],
    prompt: Annotated[list[str], typer.Option(help="Text to go on from, or with [MASK] for a masked model; repeatable.")],
    edit: Annotated[Path | None, typer.Option(help="Folder of a saved edit; its model's output is shown beside the base's.")] = None,
    strength: Annotated[float | None, typer.Option(help="Strength of the edit. [default: the one it was saved at]")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a continuation, in tokens.")] = 40,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    fills: Annotated[int, typer.Option(min=1, help="Masked models: fills shown for each gap.")] = 5,
    *,
    loading: Loading,
) -> None:
    """Show what the base writes and what the edited model writes, side by side."""
    from fairforget.errors import UsageError

    if strength is not None and edit is None:
        raise UsageError("--strength is that of an edit: name one with --edit.")
    with working():
        from fairforget.edits import load_edit
        from fairforget.workflows.generate import generate

        found = None if edit is None else load_edit(edit)
        if found is not None and strength is not None:
            found = found.at(strength)
        loaded = loading.load(model, **({"dtype": found.record.base_dtype} if found is not None and found.record.base_dtype else {}))
        outputs = generate(
            loaded, prompt, found, max_new_tokens=max_new_tokens, temperature=temperature, fills=fills, seed=loading.seed or 0
        )
    headers = ["prompt", "base"] if found is None else ["prompt", "base", f"edited, strength {found.strength:g}"]
    print_table(
        headers, [[one.prompt, _text(one.base), *([_text(one.edited)] if one.edited is not None else [])] for one in outputs],
    )


def _text(output: Output) -> str:
    """A continuation as it is; fills one to a line, gaps apart."""
    if isinstance(output, str):
        return output
    return "\n\n".join("\n".join(f"{100 * fill.probability:5.1f} %  {fill.text}" for fill in gap) for gap in output)
