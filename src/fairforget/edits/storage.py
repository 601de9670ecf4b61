"""One file per edit: ``edit.safetensors``, with the record in its header, and ``edit.json`` beside it for people."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairforget.edits.base import EditRecord
from fairforget.errors import DataError, UsageError
from fairforget.files import atomic_path, disk_error, write_json

EDIT_FILE, EDIT_RECORD = "edit.safetensors", "edit.json"
_FORMAT = "1"

Scales: TypeAlias = dict[str, float]
Facts: TypeAlias = dict[str, JsonValue]


@dataclass(frozen=True)
class SavedEdit:
    """What an edit file holds. `tensors` are mapped from the file, so that their bytes are read when they are used."""

    path: Path
    tensors: dict[str, Tensor]
    record: EditRecord
    strength: float
    content_hash: str
    scales: Scales
    facts: Facts = field(default_factory=dict[str, JsonValue])


def write_edit_file(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    record: EditRecord,
    strength: float,
    content_hash: str,
    scales: Scales,
    facts: Facts | None = None,
) -> None:
    """Write an edit; each file appears whole or not at all, and other files in the folder stay.

    Args:
        folder: made where it is absent.
        tensors: by name in the file.
        kind: kind of edit, e.g. ``weight``.
        record: where the edit comes from.
        strength: the strength it is saved at.
        content_hash: hex sha256 of the change.
        scales: factor of each low-rank change by parameter name.
        facts: what else of the change is no tensor, as JSON values.

    Raises:
        FairforgetError: the disk is full or the folder cannot be written.
    """
    metadata = {
        "format": "pt",
        "fairforget_edit": _FORMAT,
        "kind": kind,
        "strength": repr(strength),
        "content_hash": content_hash,
        "scales": json.dumps(scales),
        "record": record.model_dump_json(),
        **({"facts": json.dumps(facts, sort_keys=True)} if facts else {}),
    }
    path = folder / EDIT_FILE
    with atomic_path(path) as temporary:
        write_tensors(tensors, temporary, metadata, told=path)
    write_json(
        folder / EDIT_RECORD,
        {
            "kind": kind,
            "strength": strength,
            "content_hash": content_hash,
            "record": record.model_dump(mode="json"),
            "tensors": {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape] for name, tensor in tensors.items()},
            "scales": scales,
            **({"facts": facts} if facts else {}),
        },
    )


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str], *, told: Path | None = None) -> None:
    """Write one safetensors file; tensors that lie contiguous in the processor's memory are not copied.

    Args:
        tensors: by name in the file.
        path: where to write; not atomic, the caller sees to that.
        metadata: the file's header.
        told: the path that an error names, where `path` is a temporary one.

    Raises:
        FairforgetError: the disk is full or the file cannot be written.
    """
    try:
        save_file(_writable(tensors), path, metadata=metadata)
    except SafetensorError as error:
        # The number of the system's error is in safetensors' words only.
        full = OSError(errno.ENOSPC if "No space left" in str(error) else errno.EIO, str(error))
        raise disk_error(full, told or path) from error


def read_edit_file(folder: Path, kind: str) -> SavedEdit:
    """Read the edit in a folder, or an ``edit.safetensors`` file itself.

    Raises:
        UsageError: there is no edit there.
        DataError: the file is damaged, not an edit, of another kind or of a newer format.
    """
    path = _edit_path(folder)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            _check_header(path, metadata, kind)
            record = EditRecord.model_validate_json(metadata["record"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            strength, scales = float(metadata["strength"]), json.loads(metadata["scales"])
            facts = json.loads(metadata.get("facts", "{}"))
            return SavedEdit(path, tensors, record, strength, metadata["content_hash"], scales, facts)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or cut short ({error}): copy or make it again.") from error
    except (ValidationError, KeyError, ValueError) as error:
        raise DataError(f"The header of {path} is not that of an edit ({str(error).splitlines()[0]}): copy or make it again.") from error


def saved_kind(folder: Path) -> str:
    """The kind of the edit in a folder or file, e.g. ``weight``.

    Raises:
        UsageError: there is no edit there.
        DataError: the file is damaged, not an edit, or of a newer format.
    """
    path = _edit_path(folder)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or cut short ({error}): copy or make it again.") from error
    _check_header(path, metadata, None)
    return metadata.get("kind", "")


def _edit_path(folder: Path) -> Path:
    path = folder if folder.is_file() else folder / EDIT_FILE
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} is not a safetensors file; edits are read from safetensors only, never from pickles.")
    if not path.is_file():
        raise UsageError(f"There is no edit in {folder}: {EDIT_FILE} is missing.")
    return path


def _writable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them; those that are contiguous on the processor are written from where they lie, uncopied."""
    ready: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.data_ptr() in places:  # one tensor used twice, which the format has no word for
            tensor = tensor.clone()
        places.add(tensor.data_ptr())
        ready[name] = tensor
    return ready


def _check_header(path: Path, metadata: dict[str, str], kind: str | None) -> None:
    if "fairforget_edit" not in metadata:
        raise DataError(f"{path} is a safetensors file, but not one that fairforget wrote an edit to.")
    if metadata["fairforget_edit"] != _FORMAT:
        raise DataError(f"{path} has edit format {metadata['fairforget_edit']}, this version reads {_FORMAT}: update fairforget.")
    if kind is not None and metadata.get("kind") != kind:
        raise DataError(f"{path} holds an edit of kind '{metadata.get('kind')}', not '{kind}'.")
