"""Edits merged into a model folder shard by shard, for models larger than memory: peak memory is one shard and the edit.

What comes out equals :func:`fairforget.edits.merge.merged` tensor by tensor, to the last bit, in files cut as the input's are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from fairforget.edits.base import Edit, EditRecord
from fairforget.edits.deltas import Delta, edited_tensor
from fairforget.edits.merge import check_same_base, free_folder, merge_record, write_merge_record
from fairforget.edits.sharded import ShardedModel
from fairforget.edits.sites import find_sites, stored_transposed
from fairforget.edits.storage import write_tensors
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import UsageError
from fairforget.files import atomic_folder, write_json, write_text
from fairforget.models.model import MODEL_RECORD
from fairforget.progress import task

_METADATA = {"format": "pt"}

Terms = dict[str, list[tuple[Delta, float]]]
"""Changes and strengths by canonical name of the parameter."""


def stream_merged(
    model: ShardedModel | Path | str, edits: Edit | Sequence[Edit], folder: Path | str, *, dtype: str | None = None, rebase: bool = False
) -> Path:
    """Write the edited model as an ordinary Hugging Face folder, shard by shard; the counterpart of :func:`merged`.

    The input is only read. The output appears whole or not at all, so that an interrupted run leaves what was there before it.

    Args:
        model: a local model folder in safetensors, or one that was opened.
        edits: one or more weight edits of that base, each at its strength.
        folder: where to save; must not be the input.
        dtype: floating type of the result; by default the one in which the edit was made, on which the base's hash depends.
        rebase: take an edit that was made on another form of the same model (quantised, another floating type); names and shapes must
            fit, the hash need not.

    Returns:
        The folder.

    Raises:
        UsageError: an edit that does not fit, is no weight edit or belongs to another base; a folder that holds something else.
        DataError: files that are damaged, or named otherwise than the model's parameters.
        FairforgetError: the disk is full or the folder cannot be written.
    """
    chosen = [edits] if isinstance(edits, Edit) else list(edits)
    weights = _weight_edits(chosen)
    if not isinstance(model, ShardedModel):
        model = ShardedModel(model, dtype=dtype or weights[0].record.base_dtype or "float32")
    folder = free_folder(folder, model.source)
    terms = _terms(model, weights)
    found = model.base_hash()
    kept: list[Edit] = [_belonging(edit, model, found, rebase) for edit in weights]
    base = {"source": model.source, "revision": None, "name": model.name, "hash": found, "dtype": model.dtype}
    with atomic_folder(folder) as temporary:
        _write_shards(model, terms, temporary, f"writing {folder.name}")
        model.save_frame(temporary)
        write_merge_record(temporary, folder.name, model.prefix_id, base, kept)
    return folder


def stream_undone(folder: Path | str, out: Path | str) -> Path:
    """Write the base of an edited model folder, read again shard by shard; the counterpart of :func:`fairforget.edits.merge.undo`.

    Args:
        folder: a folder that an edit was merged into, whose base is a local folder.
        out: where to write the base; may be `folder` itself, which is then replaced.

    Returns:
        The folder `out`.

    Raises:
        UsageError: the folder has no record of a base, or the base cannot be found.
        FairforgetError: the base found is not the one that was edited.
    """
    record = merge_record(folder)
    base: dict[str, Any] = record["base"]
    out = free_folder(out, base["source"])
    model = ShardedModel(base["source"], dtype=base["dtype"])
    check_same_base(base, model.base_hash())
    with atomic_folder(out) as temporary:
        _write_shards(model, {}, temporary, f"writing {out.name}")
        model.save_frame(temporary)
        write_json(temporary / MODEL_RECORD, {"name": base["name"], "prefix_id": record.get("prefix_id", model.prefix_id)})
    return out


def _weight_edits(edits: Sequence[Edit]) -> list[WeightEdit]:
    weights = [edit for edit in edits if isinstance(edit, WeightEdit)]
    if not edits or len(weights) < len(edits):
        kind = next((edit.kind for edit in edits if not isinstance(edit, WeightEdit)), "none")
        raise UsageError(f"Only weight edits can be merged into a model's files (one of kind '{kind}' was given): save it as an edit.")
    return weights


def _terms(model: ShardedModel, edits: Sequence[WeightEdit]) -> Terms:
    terms: Terms = {}
    for edit in edits:
        sites = edit.sites(model.hf, skeleton=True)
        for name, delta in edit.deltas.items():
            terms.setdefault(sites[name].name, []).append((delta, edit.strength))
    return terms


def _belonging(edit: WeightEdit, model: ShardedModel, found: str, rebase: bool) -> WeightEdit:
    """The edit, if it belongs to the model (by its hash), or declared to belong to it."""
    record = edit.record
    if record.base_hash == found:
        return edit
    if not rebase:
        made = record.base_dtype
        hint = f"read it as {made} with --dtype {made}" if made and made != model.dtype else f"take {record.base_source}"
        raise UsageError(
            f"This edit belongs to {record.base_name or record.base_source} (weights {record.base_hash[:16]}), not to {model.name} in "
            f"{model.dtype} (weights {found[:16]}); {hint}, or say --rebase if it is the same model in another type or quantisation."
        )
    facts = {
        "base_source": model.source,
        "base_revision": None,
        "base_name": model.name,
        "base_hash": found,
        "base_dtype": model.dtype,
        "provenance": {**record.provenance, "rebased_from": record.base_hash},
    }
    return WeightEdit(edit.deltas, EditRecord.model_validate({**record.model_dump(), **facts}), edit.strength)


def _write_shards(model: ShardedModel, terms: Terms, folder: Path, description: str) -> None:
    """Write every weight file of the model with the changes in it, and the index where there is more than one."""
    sites = find_sites(model.hf)
    transposed = {name: stored_transposed(sites[name]) for name in terms}
    weight_map: dict[str, str] = {}
    size = numbers = 0
    with task(description, len(model.files)) as advance:
        for file in model.files:
            tensors = _edited(model.shard(file), model, terms, transposed)
            if tensors:
                write_tensors(tensors, folder / file, _METADATA)
            weight_map.update(dict.fromkeys(tensors, file))
            size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            numbers += sum(tensor.numel() for tensor in tensors.values())
            del tensors  # before the next shard is read
            advance(1)
    if list(model.files) != [SAFE_WEIGHTS_NAME]:
        index = {"metadata": {"total_parameters": numbers, "total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        write_text(folder / SAFE_WEIGHTS_INDEX_NAME, json.dumps(index, indent=2) + "\n")


def _edited(tensors: dict[str, Tensor], model: ShardedModel, terms: Terms, transposed: Mapping[str, bool]) -> dict[str, Tensor]:
    """One shard with the changes in it, tensor by tensor in place of the old ones."""
    for name in tensors:
        canonical = model.canonical(name)
        if canonical in terms:
            tensors[name] = edited_tensor(tensors[name], terms[canonical], transposed=transposed[canonical])
    return tensors
