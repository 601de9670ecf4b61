"""Merge edits into plain weights, save an ordinary Hugging Face folder, and undo that from the base itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fairforget.edits.base import Edit, dtype_name
from fairforget.edits.deltas import Delta, edited_tensor
from fairforget.edits.runtime_edit import RuntimeEdit
from fairforget.edits.sites import find_sites, stored_transposed
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import FairforgetError, UsageError
from fairforget.files import atomic_folder, write_json
from fairforget.models.load import load, read_model_record
from fairforget.models.model import MODEL_RECORD

if TYPE_CHECKING:
    from fairforget.models.model import Model


def merged_tensors(model: Model, edits: Edit | Sequence[Edit]) -> dict[str, Tensor]:
    """The edited weights θ₀ + Σ s · δ of every touched parameter, in float32, cast once to the model's type.

    Args:
        model: the base, with no edit attached; it is not changed.
        edits: one or more weight edits, each at its strength, or one runtime edit that can be merged exactly.

    Returns:
        New tensors by parameter name (the first name of a tied one); memory for the touched parameters only.

    Raises:
        UsageError: an edit does not fit, cannot be written as a change of weights, or the model has an edit attached or is quantised.
    """
    if model.edits:
        raise UsageError(f"{model.name} has edits attached: detach them before merging, or they would be merged twice.")
    sites = find_sites(model.hf)
    terms: dict[str, list[tuple[Delta, float]]] = {}
    chosen = [edits] if isinstance(edits, Edit) else list(edits)
    if len(chosen) > 1 and any(isinstance(edit, RuntimeEdit) for edit in chosen):
        raise UsageError("An edit that works at run time is merged alone: what it makes of a weight holds for the base's weight only.")
    for edit in chosen:
        if isinstance(edit, RuntimeEdit):
            edit = edit.as_weights(model)
        if not isinstance(edit, WeightEdit):
            raise UsageError(f"An edit of kind '{edit.kind}' works at run time and has no weights to merge: save it as an edit instead.")
        edit.check_fits(model)
        for name, delta in edit.deltas.items():
            site = sites[name]
            if not site.parameter.is_floating_point() or site.parameter.is_meta:
                raise UsageError(f"'{name}' is quantised or not in memory: load the model without --load-in-4bit and device_map to merge.")
            terms.setdefault(site.name, []).append((delta, edit.strength))
    return {
        name: edited_tensor(sites[name].parameter.detach(), these, transposed=stored_transposed(sites[name]))
        for name, these in terms.items()
    }


def merged(model: Model, edits: Edit | Sequence[Edit], folder: Path | str) -> Path:
    """Save the edited model as an ordinary Hugging Face folder that loads with plain ``from_pretrained``.

    Weights are written as safetensors with configuration, tokenizer and a record of base and edits, from which :func:`undo` finds the
    way back. The folder appears whole or not at all; a model folder that was there is replaced.

    Args:
        model: the base, with no edit attached; it is not changed.
        edits: one or more weight edits, each at its strength.
        folder: where to save.

    Returns:
        The folder.

    Raises:
        UsageError: as :func:`merged_tensors`, or a folder that holds something else than a model, or the base itself.
        FairforgetError: the disk is full or the folder cannot be written.
    """
    folder = free_folder(folder, model.source)
    chosen = [edits] if isinstance(edits, Edit) else list(edits)
    changed = merged_tensors(model, chosen)
    sites = find_sites(model.hf)
    state: dict[str, Any] = model.hf.state_dict()
    for name in state:
        if name in sites and sites[name].name in changed:
            state[name] = changed[sites[name].name]
    base = {"source": model.source, "revision": model.revision, "name": model.name, "hash": model.base_hash, "dtype": dtype_name(model)}
    with atomic_folder(folder) as temporary:
        model.hf.save_pretrained(temporary, state_dict=state)
        model.tokenizer.save_pretrained(temporary)
        write_merge_record(temporary, folder.name, model.prefix_id, base, chosen)
    return folder


def write_merge_record(folder: Path, name: str, prefix_id: int | None, base: dict[str, Any], edits: Sequence[Edit]) -> None:
    """Write beside an edited model what :func:`undo` and ``load`` need to know of it.

    Args:
        folder: where the model is being written.
        name: short name of the edited model.
        prefix_id: token before a causal sequence.
        base: source, revision, name, hash and dtype of the base.
        edits: what was merged, each at its strength.
    """
    made = [
        {"content_hash": edit.content_hash, "strength": edit.strength, "record": edit.record.model_dump(mode="json")} for edit in edits
    ]
    write_json(folder / MODEL_RECORD, {"name": name, "prefix_id": prefix_id, "base": base, "edits": made})


def undo(folder: Path | str, out: Path | str, *, trust_remote_code: bool = False) -> Path:
    """Write the base model of a saved edited one, read again from where it came from and checked by its hash.

    Nothing is subtracted: what is written is the base, tensor by tensor, in the type in which it was loaded for the edit.

    Args:
        folder: a folder that :func:`merged` wrote.
        out: where to write the base; may be `folder` itself, which is then replaced.
        trust_remote_code: run the base repository's own code, off unless asked for.

    Returns:
        The folder `out`.

    Raises:
        UsageError: the folder has no record of a base, or the base cannot be found.
        FairforgetError: the base found is not the one that was edited.
    """
    record = merge_record(folder)
    base: dict[str, Any] = record["base"]
    out = free_folder(out, base["source"])
    model = load(base["source"], device="cpu", dtype=base["dtype"], revision=base["revision"], trust_remote_code=trust_remote_code)
    check_same_base(base, model.base_hash)
    model.prefix_id = record.get("prefix_id", model.prefix_id)
    with atomic_folder(out) as temporary:
        model.save(temporary)
    return out


def merge_record(folder: Path | str) -> dict[str, Any]:
    """What :func:`write_merge_record` wrote.

    Raises:
        UsageError: the folder has no record of a base.
    """
    record = read_model_record(folder)
    if not record.get("base"):
        raise UsageError(f"{folder} names no base model in {MODEL_RECORD}: only a folder that fairforget merged can be undone.")
    return record


def check_same_base(base: dict[str, Any], found: str) -> None:
    """Refuse a base whose tensors are no longer those that were edited.

    Raises:
        FairforgetError: the hash found there is another.
    """
    if found != base["hash"]:
        raise FairforgetError(
            f"The model at {base['source']} is no longer the one that was edited (weights {found[:16]}, "
            f"not {base['hash'][:16]}), so the edit cannot be undone from it: put the original back there."
        )


def free_folder(folder: Path | str, source: str) -> Path:
    """A folder that may be replaced: absent, empty or an old model, and not the one the base is read from."""
    folder = Path(folder).resolve()
    origin = Path(source).resolve()
    if Path(source).exists() and (folder == origin or folder in origin.parents):
        raise UsageError(f"{folder} holds the base model itself, which undoing an edit needs: choose another folder.")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").is_file())):
        raise UsageError(f"{folder} exists and holds something else than a model: choose another folder, or remove it first.")
    return folder
