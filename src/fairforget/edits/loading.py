"""Reads an edit of whatever kind a folder holds."""

from __future__ import annotations

from pathlib import Path

from fairforget.edits.base import Edit
from fairforget.edits.projection import ProjectionEdit
from fairforget.edits.runtime_edit import RuntimeEdit
from fairforget.edits.self_debias import SelfDebiasEdit
from fairforget.edits.storage import saved_kind
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import DataError

_KINDS: dict[str, type[WeightEdit] | type[RuntimeEdit]] = {kind.kind: kind for kind in (WeightEdit, ProjectionEdit, SelfDebiasEdit)}


def load_edit(folder: Path | str) -> Edit:
    """Read a saved edit, of weights or of what runs.

    Args:
        folder: that holds ``edit.safetensors``, or this file itself.

    Raises:
        UsageError: there is no edit there.
        DataError: the file is damaged, not an edit, or of a kind that this version does not know.
    """
    kind = saved_kind(Path(folder))
    if kind not in _KINDS:
        raise DataError(f"{folder} holds an edit of kind '{kind}', which this version does not know: update fairforget.")
    return _KINDS[kind].load(folder)
