"""``fairforget edit``: saved edits put on, taken off, combined, described, exported."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairforget.cli.loading import Loading, loads_model
from fairforget.cli.terminal import print_facts, print_paths, say, size_text, working

if TYPE_CHECKING:
    from fairforget.edits import WeightEdit
    from fairforget.models import Model

EditPath = Annotated[Path, typer.Argument(help="Folder of a saved edit.")]
BaseModel = Annotated[str | None, typer.Argument(help="The base model. [default: what the edit says it belongs to]")]
Strength = Annotated[float | None, typer.Option(help="0 is the base, 1 the change as found. [default: the one it was saved at]")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]


@loads_model
def apply(edit: EditPath, model: BaseModel = None, strength: Strength = None, *, out: Out, loading: Loading) -> None:
    """Write the model with the edit on it as an ordinary folder that loads with plain transformers."""
    from fairforget.edits import merged

    with working():
        found = _read(edit, strength)
        print_paths([("model", merged(_base(found, model, loading), found, out))])


@loads_model
def undo(
    models: Annotated[
        list[str], typer.Argument(metavar="[EDIT] MODEL", help="A folder that `apply` or `debias` wrote; before it, if you like, the edit.")
    ],
    *,
    out: Out,
    loading: Loading,
) -> None:
    """Write the base of an edited model folder, read again from where it came from and checked by its hash; nothing is subtracted.

    With EDIT before it, the folder must carry that edit and no other.
    """
    from fairforget.edits import undo as undo_edits
    from fairforget.errors import UsageError
    from fairforget.models.load import read_model_record

    if len(models) > 2:
        raise UsageError("edit undo takes a model folder, and before it the edit if you like.")
    if len(models) == 2:
        carried = [entry["content_hash"] for entry in read_model_record(models[-1]).get("edits", [])]
        if carried != [_read(Path(models[0])).content_hash]:
            raise UsageError(
                f"{models[-1]} does not carry the edit {models[0]} and no other; name the folder alone to go back to its base."
            )
    with working():
        print_paths([("model", undo_edits(models[-1], out, trust_remote_code=loading.trust_remote_code))])


@loads_model
def merge(
    parts: Annotated[
        list[str], typer.Argument(metavar="EDIT[@WEIGHT]... [MODEL]", help="Edits to add up; a model after them takes their sum.")
    ],
    strength: Annotated[float, typer.Option(help="Strength of the sum.")] = 1.0,
    *,
    out: Out,
    loading: Loading,
) -> None:
    """Add up edits of one base, each at its weight (default: as saved).

    Without MODEL the sum is written as one edit; with MODEL it is merged into the weights and written as an ordinary model folder.
    """
    from fairforget.edits import Dense, combine, merged
    from fairforget.errors import UsageError

    *firsts, last = [_weighted(part) for part in parts]
    model = None if last[0] is not None else parts[-1]
    edits = [*firsts, last] if model is None else firsts
    chosen = [(_read(path), weight) for path, weight in edits if path is not None]
    if not chosen or len(chosen) < len(edits):
        missing = next((part for part, (path, _) in zip(parts, edits, strict=False) if path is None), parts[-1])
        raise UsageError(f"There is no edit in {missing}: name folders that hold edit.safetensors, and at most one model, last.")
    kinds = {(name, isinstance(delta, Dense)) for edit, _ in chosen for name, delta in edit.deltas.items()}
    mixed = len({name for name, _ in kinds}) < len(kinds)
    with working():
        # The layout of a weight is needed only where a dense and a low-rank change meet in it.
        base = _base(chosen[0][0], model, loading) if model is not None or mixed else None
        total = combine(chosen, model=base).at(strength)
        if model is not None and base is not None:
            print_paths([("model", merged(base, total, out))])
        else:
            total.save(out)
            print_paths([("edit", out)])


@loads_model
def info(
    edit: EditPath, model: Annotated[str | None, typer.Argument(help="A model to check the edit against.")] = None, *, loading: Loading
) -> None:
    """Say what an edit is: where it comes from, what it changes, and whether it fits a model."""
    from fairforget.edits import EDIT_FILE, Dense

    found = _read(edit)
    record = found.record
    file = edit if edit.is_file() else edit / EDIT_FILE
    dense = sum(isinstance(delta, Dense) for delta in found.deltas.values())
    facts = [
        ("method", record.method),
        ("base", f"{record.base_source} ({record.family}, {record.base_dtype}, revision {record.base_revision or 'none'})"),
        ("base weights", record.base_hash),
        ("strength", f"{found.strength:g} (as saved)"),
        ("changes", f"{len(found.deltas)} parameters: {dense} dense, {len(found.deltas) - dense} low-rank"),
        ("size", f"{found.parameter_count:,} numbers, {size_text(file.stat().st_size)}"),
        ("content hash", found.content_hash),
        ("seed", "none" if record.seed is None else str(record.seed)),
        ("made by", record.created_by),
        *((f"  {name}", str(value)) for name, value in record.settings.items()),
    ]
    print_facts(facts)
    if model is not None:
        with working():
            loaded = _base(found, model, loading)
        found.check_fits(loaded)
        print(f"It fits {loaded.name}.")


@loads_model
def export(
    edit: EditPath,
    model: BaseModel = None,
    strength: Strength = None,
    form: Annotated[str, typer.Option("--format", help="peft: a LoRA adapter that plain PEFT loads at weight 1.")] = "peft",
    *,
    out: Out,
    loading: Loading,
) -> None:
    """Write a low-rank edit for other libraries, sign and strength folded in."""
    from fairforget.edits import export_peft
    from fairforget.errors import unknown_name

    if form != "peft":
        raise unknown_name("export format", form, ("peft",))
    with working():
        found = _read(edit, strength)
        print_paths([("adapter", export_peft(found, _base(found, model, loading), out))])


def _read(path: Path, strength: float | None = None) -> WeightEdit:
    from fairforget.edits import WeightEdit

    edit = WeightEdit.load(path)
    return edit if strength is None else edit.at(strength)


def _base(edit: WeightEdit, model: str | None, loading: Loading) -> Model:
    """The base of an edit, in the type the edit was made in unless the user says otherwise."""
    record = edit.record
    defaults: dict[str, Any] = {"dtype": record.base_dtype} if record.base_dtype else {}
    if model is None:
        defaults["revision"] = record.base_revision
        say(f"The edit belongs to {record.base_source}.")
    return loading.load(model or record.base_source, **defaults)


def _weighted(text: str) -> tuple[Path | None, float]:
    """Folder of an edit and its weight, 1 by default; no folder where there is no edit."""
    from fairforget.edits import EDIT_FILE

    path, at, weight = text.rpartition("@")
    candidates: list[tuple[str, float]] = [(text, 1.0)]
    if at:
        with contextlib.suppress(ValueError):
            candidates.append((path, float(weight)))
    for name, factor in candidates:
        folder = Path(name)
        if (folder / EDIT_FILE).is_file() or (folder.is_file() and folder.suffix == ".safetensors"):
            return folder, factor
    return None, 1.0
