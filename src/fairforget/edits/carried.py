"""An edit written into a model's weights for a while, so that a next stage of tuning begins where the last one ended."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

import torch

from fairforget.edits.merge import merged_tensors
from fairforget.edits.sites import find_sites

if TYPE_CHECKING:
    from fairforget.edits.base import Edit
    from fairforget.models.model import Model


@contextlib.contextmanager
def carried(model: Model, edit: Edit) -> Generator[None]:
    """The edited weights are the model's own while the block runs: a base with a hash of its own, on which edits can be fitted.

    Blocks may be nested. Afterwards every weight is as before, to the last bit.

    Args:
        model: without edits attached.
        edit: a weight edit, or one that can be merged exactly, at its strength.

    Raises:
        UsageError: the edit cannot be written as a change of weights, or does not fit.
    """
    assert model.base_hash  # taken now: the weights it is of are about to change
    changed = merged_tensors(model, edit)
    sites = find_sites(model.hf)
    held = {name: sites[name].parameter.detach().clone() for name in changed}
    with model.rebased(), torch.no_grad():
        try:
            for name, tensor in changed.items():
                sites[name].parameter.copy_(tensor)
            del changed
            with torch.enable_grad():
                yield
        finally:
            for name, tensor in held.items():
                sites[name].parameter.copy_(tensor)
