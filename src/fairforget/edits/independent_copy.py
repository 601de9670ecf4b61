"""A model of one's own in the state that another one is in."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from fairforget.errors import UsageError

if TYPE_CHECKING:
    from fairforget.models.model import Model


def independent_copy(model: Model) -> Model:
    """Copy a model with the edits that are on it; what is then trained or changed in the copy does not touch the original.

    The edits are taken off while the weights are copied and put back on both, so that hooks of one never run in the other. Edits that work
    at run time work in the copy too. The original is in the same state afterwards, to the last bit.

    Args:
        model: whose weights are all in memory.

    Raises:
        UsageError: the weights are quantised or spread over devices.
    """
    if bool(getattr(model.hf, "is_quantized", False)) or getattr(model.hf, "hf_device_map", None):
        raise UsageError(f"The weights of {model.name} cannot be copied: load it without --load-in-4bit and --device-map.")
    if not model.edits:
        assert model.base_hash  # an edit that is put on the copy later asks for it
    edits = list(model.edits)
    for edit in reversed(edits):
        edit.detach(model)
    try:
        twin = copy.copy(model)
        twin.hf = copy.deepcopy(model.hf)
        twin.edits, twin.notes = [], list(model.notes)
    finally:
        for edit in edits:
            edit.attach(model)
    for edit in edits:
        edit.attach(twin)
    return twin
