"""Projections of hidden states: every state loses its part in a subspace, h ← h − s · V Vᵀ h."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fairforget.edits.base import EditRecord
from fairforget.edits.deltas import LowRank
from fairforget.edits.runtime_edit import RuntimeEdit
from fairforget.edits.sites import find_sites, stored_transposed
from fairforget.edits.storage import SavedEdit
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import UsageError
from fairforget.models.hidden_sites import Layer, head_readers, hidden_site, random_states, states_of, with_states
from fairforget.models.model import HeadInput

if TYPE_CHECKING:
    from fairforget.models.model import Model

ORTHONORMAL = 1e-4
"""How far Vᵀ V may be from the identity, entry by entry."""
MERGED_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest difference of logits, relative to the largest logit, between hooks and merged weights; narrower types: 3e-2."""

_handles: WeakKeyDictionary[nn.Module, dict[str, RemovableHandle]] = WeakKeyDictionary()
"""Hooks that are on each model, by content hash of their edit."""


def projected(states: Tensor, basis: Tensor, strength: float = 1.0) -> Tensor:
    """Return h − s · V Vᵀ h for every state, computed in float32 at least and cast once.

    Args:
        states: (..., width).
        basis: V, (width, k), orthonormal columns.
        strength: s.
    """
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    basis = basis.to(device=wide.device, dtype=wide.dtype)
    with torch.autocast(wide.device.type, enabled=False):
        return (wide - strength * ((wide @ basis) @ basis.T)).to(states.dtype)


class _ProjectionHook:
    """Projects what a body or block returns."""

    def __init__(self, basis: Tensor, strength: float) -> None:
        self._basis, self._strength = basis, strength

    def __call__(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, HeadInput):
            return output  # the head runs alone on states that were projected when they were made
        states = states_of(output)
        if self._basis.device != states.device:
            self._basis = self._basis.to(states.device)
        return with_states(output, projected(states, self._basis, self._strength))


class ProjectionEdit(RuntimeEdit):
    """Takes the part in a subspace out of every hidden state of one layer: h ← (I − s · V Vᵀ) h.

    Strength 1 removes it, a strength between 0 and 1 a part of it; above 1 it is turned round. On the final states of a head that reads
    them with one untied linear module, W (I − s V Vᵀ) = W − s (W V) Vᵀ is the same function, so that it can be merged.

    Args:
        basis: V, (width, k), floating; its columns must be orthonormal.
        layer: ``final`` (what the head reads) or the number of a block, from 0.
        record: where the edit comes from.
        strength: s.

    Raises:
        UsageError: the basis has no columns, or they are not orthonormal.
    """

    kind: ClassVar[str] = "projection"

    def __init__(self, basis: Tensor, record: EditRecord, strength: float = 1.0, *, layer: Layer = "final") -> None:
        if basis.ndim != 2 or not basis.is_floating_point() or not 0 < basis.shape[1] <= basis.shape[0]:
            raise UsageError(f"A projection needs a basis (width, directions) with 1 or more directions, not {tuple(basis.shape)}.")
        basis = basis.detach().cpu().contiguous()
        gram = basis.double().T @ basis.double()
        if not torch.allclose(gram, torch.eye(len(gram), dtype=torch.float64), atol=ORTHONORMAL):
            raise UsageError("The directions of a projection must be orthonormal; take them from a QR or singular value decomposition.")
        super().__init__({"basis": basis}, {"layer": layer}, record, strength)
        self.layer: Layer = layer

    @property
    def basis(self) -> Tensor:
        """V, (width, k), orthonormal columns."""
        return self._content.tensors["basis"]

    @property
    def description(self) -> str:
        """How many directions are removed, and where."""
        width, count = self.basis.shape
        where = "the final hidden states" if self.layer == "final" else f"the hidden states of layer {self.layer}"
        return f"takes {count} of {width} directions out of {where}"

    def check_fits(self, model: Model) -> None:
        """Refuse a model that this edit does not belong to.

        Raises:
            UsageError: another base, a layer that it does not have, or hidden states of another width.
        """
        super().check_fits(model)
        hidden_site(model, self.layer)
        width = int(model.hf.config.get_text_config().hidden_size)
        if self.basis.shape[0] != width:
            raise UsageError(f"This projection is for hidden states of width {self.basis.shape[0]}; those of {model.name} have {width}.")

    def _install(self, model: Model) -> None:
        if self.strength == 0:
            return  # nothing runs: the base itself
        handle = hidden_site(model, self.layer).register_forward_hook(_ProjectionHook(self.basis, self.strength))
        _handles.setdefault(model.hf, {})[self.content_hash] = handle

    def _remove(self, model: Model) -> None:
        handle = _handles.get(model.hf, {}).pop(self.content_hash, None)
        if handle is not None:
            handle.remove()

    def _weights(self, model: Model) -> WeightEdit | str:
        self.check_fits(model)
        if self.layer != "final":
            return f"it works on layer {self.layer}, whose states go past every weight on the residual path."
        readers = head_readers(model)
        if len(readers) != 1:
            return f"the head of {model.name} reads its states with {len(readers)} linear modules, not with one."
        ((name, _),) = readers
        site = find_sites(model.hf)[f"{name}.weight"]
        if site.tied:
            return f"the head's weight '{site.name}' is the input embedding too, which the merge would change."
        if not site.parameter.is_floating_point() or site.parameter.is_meta:
            return f"'{site.name}' is quantised or not in memory."
        weight = site.parameter.detach().cpu().to(torch.float64)
        basis = self.basis.double()
        outputs = (weight.T if stored_transposed(site) else weight) @ basis
        delta = LowRank(basis.T.float().contiguous(), (-outputs).float().contiguous())
        record = self.record.model_copy(update={"provenance": {**self.record.provenance, "merged_from": self.content_hash}})
        edit = WeightEdit({site.name: delta}, record, self.strength)
        return edit if self._agrees(model, edit) else f"'{site.name}' is not all of what the head of {model.name} makes of its states."

    @torch.no_grad()
    def _agrees(self, model: Model, edit: WeightEdit) -> bool:
        """Whether the head with the merged change gives on random states what the head alone gives on projected ones."""
        states = random_states(model)
        wanted = model.head(projected(states, self.basis)).double()
        with edit.at(1.0).applied(model):
            found = model.head(states).double()
        tolerance = MERGED_TOLERANCE.get(model.dtype, 3e-2)
        return float((found - wanted).abs().max()) <= tolerance * max(1.0, float(wanted.abs().max()))

    @classmethod
    def _restored(cls, saved: SavedEdit) -> Self:
        layer: Any = saved.facts["layer"]
        return cls(saved.tensors["basis"], saved.record, saved.strength, layer=layer)
