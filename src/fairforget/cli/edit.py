"""``fairforget edit``: saved edits put on, taken off, combined, described, exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairforget.cli.loading import Loading, loads_model
from fairforget.cli.terminal import print_facts, print_paths, print_table, say, size_text, working

if TYPE_CHECKING:
    from torch import nn

    from fairforget.edits import Edit, ShardedModel, WeightEdit
    from fairforget.models import Model

EditPath = Annotated[Path, typer.Argument(help="Folder of a saved edit.")]
BaseModel = Annotated[str | None, typer.Argument(help="The base model. [default: what the edit says it belongs to]")]
Strength = Annotated[float | None, typer.Option(help="0 is the base, 1 the change as found. [default: the one it was saved at]")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream", help="Go shard by shard, with one in memory. [default: where the model is a local folder of several]"
    ),
]
Rebase = Annotated[
    bool, typer.Option("--rebase", help="The edit was made on MODEL in another form (4-bit, another dtype): names and shapes must fit.")
]


@loads_model
def apply(
    edit: EditPath,
    model: BaseModel = None,
    strength: Strength = None,
    stream: Stream = None,
    rebase: Rebase = False,
    *,
    out: Out,
    loading: Loading,
) -> None:
    """Write the model with the edit on it as an ordinary folder that loads with plain transformers."""
    from fairforget.edits import WeightEdit, merged, stream_merged

    with working():
        found = _read(edit, strength)
        # What works at run time needs the loaded model to become a change of weights, so it streams only where that is refused aloud.
        if _streams(stream if isinstance(found, WeightEdit) else bool(stream), model or found.record.base_source, loading):
            print_paths([("model", stream_merged(_sharded(found, model, loading), found, out, rebase=rebase))])
            return
        base = _base(found, model, loading)
        print_paths([("model", merged(base, found.rebased(base) if rebase else found, out))])


@loads_model
def undo(
    models: Annotated[
        list[str], typer.Argument(metavar="[EDIT] MODEL", help="A folder that `apply` or `debias` wrote; before it, if you like, the edit.")
    ],
    stream: Stream = None,
    *,
    out: Out,
    loading: Loading,
) -> None:
    """Write the base of an edited model folder, read again from where it came from and checked by its hash; nothing is subtracted.

    With EDIT before it, the folder must carry that edit and no other.
    """
    from fairforget.edits import stream_undone
    from fairforget.edits import undo as undo_edits
    from fairforget.edits.merge import merge_record
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
        if _streams(stream, merge_record(models[-1])["base"]["source"], loading):
            print_paths([("model", stream_undone(models[-1], out))])
        else:
            print_paths([("model", undo_edits(models[-1], out, trust_remote_code=loading.trust_remote_code))])


@loads_model
def merge(
    parts: Annotated[
        list[str], typer.Argument(metavar="EDIT[@WEIGHT]... [MODEL]", help="Edits to add up; a model after them takes their sum.")
    ],
    strength: Annotated[float, typer.Option(help="Strength of the sum.")] = 1.0,
    stream: Stream = None,
    *,
    out: Out,
    loading: Loading,
) -> None:
    """Add up edits of one base, each at its weight (default: as saved).

    Without MODEL the sum is written as one edit; with MODEL it is merged into the weights and written as an ordinary model folder.
    """
    from fairforget.edits import combine, merged, stream_merged
    from fairforget.edits.arithmetic import find_weighted, load_weighted
    from fairforget.errors import UsageError

    last = find_weighted(parts[-1])
    model = None if last is not None else parts[-1]
    texts = parts if model is None else parts[:-1]
    missing = next((text for text in texts if find_weighted(text) is None), None if texts else parts[-1])
    if missing is not None:
        raise UsageError(f"There is no edit in {missing}: name folders that hold edit.safetensors, and at most one model, last.")
    chosen = [load_weighted(text) for text in texts]
    first = chosen[0][0]
    with working():
        if model is None:
            combine(chosen, model=_layout([edit for edit, _ in chosen], "add", loading)).at(strength).save(out)
            print_paths([("edit", out)])
        elif _streams(stream, model, loading):
            sharded = _sharded(first, model, loading)
            print_paths([("model", stream_merged(sharded, combine(chosen, model=sharded.hf).at(strength), out))])
        else:
            base = _base(first, model, loading)
            print_paths([("model", merged(base, combine(chosen, model=base).at(strength), out))])


@loads_model
def combine(
    parts: Annotated[list[str], typer.Argument(metavar="EDIT[@WEIGHT]...", help="Edits of one base, each at its weight.")],
    how: Annotated[str, typer.Option(help="add, average (of shards), project (the first, away from the others), ties or dare.")] = "add",
    keep: Annotated[float, typer.Option(help="ties: share of the largest entries kept of each edit.")] = 0.2,
    drop: Annotated[float, typer.Option(help="dare: share of entries dropped at random.")] = 0.9,
    *,
    out: Out,
    loading: Loading,
) -> None:
    """Combine a bias edit with capability edits, or shards of one, as one edit.

    An edit that task-vector fitted is negated already: a capability fitted with it is given back with the weight -1.
    """
    from fairforget.edits import arithmetic
    from fairforget.edits.arithmetic import load_weighted

    with working():
        chosen = [load_weighted(text) for text in parts]
        layout = _layout([edit for edit, _ in chosen], how, loading)
        total = arithmetic(chosen, how, keep=keep, drop=drop, seed=loading.seed or 0, model=layout)
        total.save(out)
    print_paths([("edit", out)])


@loads_model
def search(
    bias: Annotated[Path, typer.Argument(help="Folder of the edit that forgets.")],
    capability: Annotated[
        str, typer.Argument(metavar="CAPABILITY[@SIGN]", help="Folder of the edit that gives ability back; @-1 if task-vector fitted it.")
    ],
    model: BaseModel = None,
    benchmarks: Annotated[str, typer.Option(help="A bias benchmark and perplexity, comma-separated.")] = "starter,perplexity:starter",
    target: Annotated[str | None, typer.Option(help="BENCHMARK:METRIC. [default: margin of the first bias benchmark]")] = None,
    budget: Annotated[str, typer.Option(help="What may be paid, e.g. perplexity=2%.")] = "perplexity=2%",
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="BENCHMARK:METRIC=ALLOWED", help="A figure that may become worse by so much: arc:accuracy=1; repeatable."),
    ] = None,
    max_bias: Annotated[float, typer.Option(min=0, help="Largest strength of the bias edit.")] = 1.0,
    max_capability: Annotated[float, typer.Option(min=0, help="Largest strength of the capability edit.")] = 1.0,
    points: Annotated[int, typer.Option(min=2, help="Strengths tried in each line.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Most passes over the two dials.")] = 2,
    resamples: Annotated[int, typer.Option(min=200, help="Bootstrap resamples of every interval.")] = 10_000,
    *,
    out: Out,
    loading: Loading,
) -> None:
    """Search how much of a bias edit and of a capability edit to take, on the select part, and write the Pareto table and their sum."""
    from fairforget.edits.arithmetic import load_weighted
    from fairforget.errors import UsageError
    from fairforget.workflows.pareto import DialSearch, search_edits

    if not (max_bias > 0 and max_capability > 0):
        raise UsageError("--max-bias and --max-capability must be above 0.")
    settings = DialSearch(max_bias=max_bias, max_capability=max_capability, points=points, rounds=rounds)
    with working():
        first = _read_weights(bias)
        second, sign = load_weighted(capability)
        found = search_edits(
            _base(first, model, loading), first, second, out=out, benchmarks=benchmarks, target=target, budget=budget, keep=keep or (),
            search=settings, capability_sign=sign, resamples=resamples, seed=loading.seed or 0,
        )
    rows = [
        [
            f"{row['bias']:g}", f"{row['capability']:g}", f"{row['target']:.4g}", f"{row['perplexity_ratio']:.4f}",
            "no" if not row["within_budget"] else "tasks not kept" if row["tasks_kept"] is False else "yes",
            ", ".join(word for word in ("pareto", "chosen", "reversed") if row[word]) or row["note"],
        ]
        for row in found.table.iter_rows(named=True)
    ]
    print_table(("bias", "capability", "distance", "perplexity ratio", "in budget", ""), rows, "Points measured on the select part")
    print(found.reason)
    print_paths([("table", out / "tables" / "pareto.parquet"), ("edit", out / "edit")])


@loads_model
def info(
    edit: EditPath, model: Annotated[str | None, typer.Argument(help="A model to check the edit against.")] = None, *, loading: Loading
) -> None:
    """Say what an edit is: where it comes from, what it changes, and whether it fits a model."""
    from fairforget.edits import EDIT_FILE

    found = _read(edit)
    record = found.record
    file = edit if edit.is_file() else edit / EDIT_FILE
    facts = [
        ("method", record.method),
        ("base", f"{record.base_source} ({record.family}, {record.base_dtype}, revision {record.base_revision or 'none'})"),
        ("base weights", record.base_hash),
        ("strength", f"{found.strength:g} (as saved)"),
        ("changes", _changes(found)),
        ("size", size_text(file.stat().st_size)),
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
        found = _read_weights(edit, strength)
        print_paths([("adapter", export_peft(found, _base(found, model, loading), out))])


def _read(path: Path, strength: float | None = None) -> Edit:
    from fairforget.edits import load_edit

    edit = load_edit(path)
    return edit if strength is None else edit.at(strength)


def _read_weights(path: Path, strength: float | None = None) -> WeightEdit:
    from fairforget.edits import WeightEdit
    from fairforget.errors import UsageError

    edit = _read(path, strength)
    if not isinstance(edit, WeightEdit):
        raise UsageError(f"{path} holds an edit of kind '{edit.kind}', which works at run time; this command needs an edit of weights.")
    return edit


def _changes(edit: Edit) -> str:
    """What an edit changes, in a few words."""
    from fairforget.edits import Dense, RuntimeEdit, WeightEdit

    if isinstance(edit, WeightEdit):
        dense = sum(isinstance(delta, Dense) for delta in edit.deltas.values())
        return (
            f"{len(edit.deltas)} parameters: {dense} dense, {len(edit.deltas) - dense} low-rank; {edit.parameter_count:,} numbers"
        )
    return f"at run time: {edit.description}" if isinstance(edit, RuntimeEdit) else edit.kind


def _base(edit: Edit, model: str | None, loading: Loading) -> Model:
    """The base of an edit, in the type the edit was made in unless the user says otherwise."""
    record = edit.record
    defaults: dict[str, Any] = {"dtype": record.base_dtype} if record.base_dtype else {}
    if model is None:
        defaults["revision"] = record.base_revision
        say(f"The edit belongs to {record.base_source}.")
    return loading.load(model or record.base_source, **defaults)


def _streams(stream: bool | None, source: str, loading: Loading) -> bool:
    """Whether to go shard by shard."""
    from fairforget.edits import is_sharded
    from fairforget.errors import UsageError

    whole = {"load-in-4bit": loading.load_in_4bit, "device-map": loading.device_map, "trust-remote-code": loading.trust_remote_code}
    asked = next((name for name, value in whole.items() if value), None)
    if stream and asked:
        raise UsageError(f"--stream and --{asked} do not go together: leave one out.")
    if stream and not Path(source).is_dir():
        raise UsageError(f"--stream reads a local model folder, and {source} is none.")
    on_processor = loading.device in (None, "auto", "cpu")
    return bool(stream) or (stream is None and asked is None and on_processor and is_sharded(source))


def _sharded(edit: Edit, model: str | None, loading: Loading) -> ShardedModel:
    """The base of an edit as files that are read piece by piece, in the type the edit was made in unless the user says otherwise."""
    from fairforget.edits import ShardedModel

    source = model or edit.record.base_source
    say(f"Reading {source} shard by shard.")
    return ShardedModel(source, dtype=loading.dtype or edit.record.base_dtype or "float32", prefix=loading.prefix or "auto")


def _layout(edits: list[WeightEdit], how: str, loading: Loading) -> Model | nn.Module | None:
    """What tells how weights are stored, where a low-rank change meets or becomes a dense one; without weights where that will do."""
    from fairforget.edits import LowRank, ShardedModel

    kinds = {(name, isinstance(delta, LowRank)) for edit in edits for name, delta in edit.deltas.items()}
    mixed = len({name for name, _ in kinds}) < len(kinds)
    becomes_dense = how in ("ties", "dare") and any(low_rank for _, low_rank in kinds)
    if not (mixed or becomes_dense):
        return None
    source = edits[0].record.base_source
    if any((Path(source) / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return ShardedModel(source).hf
    return _base(edits[0], None, loading)
