"""Edits of weights: a dense or a low-rank change for each parameter that was touched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from fairforget.edits.base import Edit, EditRecord
from fairforget.edits.deltas import Delta, Dense, LowRank
from fairforget.edits.held import held_parameters
from fairforget.edits.sites import Site, find_sites, linear_axes
from fairforget.edits.storage import Scales, read_edit_file, write_edit_file
from fairforget.errors import DataError, UsageError, nearest_names
from fairforget.models.hashing import tensors_hash

if TYPE_CHECKING:
    from fairforget.models.model import Model

_DENSE, _A, _B = "dense", "low_rank_A", "low_rank_B"


class _Content:
    """The changes of an edit, shared between its strengths, hashed once."""

    def __init__(self, deltas: Mapping[str, Delta]) -> None:
        self.deltas: dict[str, Delta] = dict(deltas)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under the name it has in the file."""
        tensors: dict[str, Tensor] = {}
        for name, delta in self.deltas.items():
            if isinstance(delta, Dense):
                tensors[f"{_DENSE}/{name}"] = delta.delta
            else:
                tensors[f"{_A}/{name}"], tensors[f"{_B}/{name}"] = delta.A, delta.B
        return tensors

    def scales(self) -> Scales:
        return {name: float(delta.scale) for name, delta in self.deltas.items() if isinstance(delta, LowRank)}

    @cached_property
    def hash(self) -> str:
        scales = self.scales()
        return tensors_hash((f"{name}*{scales.get(name.split('/', 1)[1], 1.0)!r}", tensor) for name, tensor in self.tensors().items())


class _LowRankHook:
    """Adds strength · scale · B (A x) to what a linear module returns; its weights stay untouched and no dense matrix is made."""

    def __init__(self, delta: LowRank, strength: float) -> None:
        self._delta, self._strength = delta, strength
        self._factors: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        # Float32 even under bfloat16 weights: a small change must not be rounded away before it is added.
        dtype = torch.promote_types(output.dtype, torch.float32)
        key = (output.device, dtype)
        if key not in self._factors:
            self._factors[key] = (self._delta.A.to(*key), self._delta.folded_b(self._strength, dtype, output.device))
        a, b = self._factors[key]
        return (output + functional.linear(functional.linear(x.to(*key), a), b)).to(output.dtype)


_hooks: WeakKeyDictionary[nn.Module, dict[str, list[RemovableHandle]]] = WeakKeyDictionary()
"""Hooks that are on each model, by content hash of their edit."""


class WeightEdit(Edit):
    """A change of weights: for each touched parameter a :class:`Dense` or a :class:`LowRank` delta.

    Low-rank deltas run as forward hooks on the module that owns the weight (Linear, 4-bit Linear or Conv1D). Dense deltas hold θ₀ and
    write θ₀ + s · δ, computed in float32 and cast once. The change carries its own sign: the edit of a task vector τ is already −τ.

    Args:
        deltas: changes by parameter name of the Hugging Face model; a tied weight is named once, under any of its names.
        record: where the edit comes from.
        strength: 0 is the base to the last bit, 1 the change as found.

    Raises:
        UsageError: there is no change at all.
    """

    kind: ClassVar[str] = "weight"

    def __init__(self, deltas: Mapping[str, Delta], record: EditRecord, strength: float = 1.0) -> None:
        super().__init__(record, strength)
        if not deltas:
            raise UsageError("An edit needs at least one changed parameter; this one has none.")
        self._content = _Content(deltas)

    @property
    def deltas(self) -> dict[str, Delta]:
        """Changes by parameter name."""
        return dict(self._content.deltas)

    @property
    def content_hash(self) -> str:
        """Hex sha256 over names, types, shapes, scales and bytes of the change."""
        return self._content.hash

    @property
    def parameter_count(self) -> int:
        """Numbers that the edit holds."""
        return sum(tensor.numel() for tensor in self._content.tensors().values())

    def check_fits(self, model: Model) -> None:
        """Refuse a model that this edit does not belong to, sentence by sentence.

        Raises:
            UsageError: another base, an unknown parameter, a wrong shape, a quantised or tied weight that cannot take this kind of change.
        """
        super().check_fits(model)
        self.sites(model.hf)

    def sites(self, hf: nn.Module, *, skeleton: bool = False) -> dict[str, Site]:
        """Where each change goes in a model, by the names this edit uses.

        Args:
            hf: the model.
            skeleton: the model never had weights (all its parameters are on the meta device), and none are asked for.

        Raises:
            UsageError: a parameter is unknown, named twice, or does not fit its change.
        """
        known = find_sites(hf)
        found: dict[str, Site] = {}
        seen: dict[str, str] = {}
        for name, delta in self._content.deltas.items():
            site = known.get(name)
            if site is None:
                raise UsageError(f"The model has no parameter '{name}', which this edit changes: {nearest_names(name, known)}")
            if site.name in seen:
                raise UsageError(f"'{name}' and '{seen[site.name]}' are one tied tensor of the model: change it once, under one name.")
            _check_delta(name, delta, site, skeleton)
            found[name], seen[site.name] = site, name
        return found

    def _install(self, model: Model) -> None:
        if self.strength == 0:
            return  # nothing runs and nothing is written: the base itself
        sites = self.sites(model.hf)
        handles = _hooks.setdefault(model.hf, {}).setdefault(self.content_hash, [])
        for name, delta in self._content.deltas.items():
            site = sites[name]
            if isinstance(delta, Dense):
                held_parameters(model.hf).add(self.content_hash, site.name, site.parameter, delta, self.strength)
            else:
                handles.append(site.module.register_forward_hook(_LowRankHook(delta, self.strength), with_kwargs=True))

    def _remove(self, model: Model) -> None:
        for handle in _hooks.get(model.hf, {}).pop(self.content_hash, []):
            handle.remove()
        held = held_parameters(model.hf)
        sites = find_sites(model.hf)
        for name, delta in self._content.deltas.items():
            if isinstance(delta, Dense):
                held.remove(self.content_hash, sites[name].name, sites[name].parameter)

    def save(self, folder: Path | str) -> None:
        """Write ``edit.safetensors`` (whole in itself) and ``edit.json`` (the same facts for people) to a folder.

        Raises:
            FairforgetError: the disk is full or the folder cannot be written.
        """
        write_edit_file(
            Path(folder),
            self._content.tensors(),
            kind=self.kind,
            record=self.record,
            strength=self.strength,
            content_hash=self.content_hash,
            scales=self._content.scales(),
        )

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read an edit; dense changes stay mapped from the file until they are used.

        Raises:
            UsageError: there is no edit there.
            DataError: the file is damaged, not an edit, or of another kind.
        """
        saved = read_edit_file(Path(folder), cls.kind)
        deltas: dict[str, Delta] = {}
        try:
            for key, tensor in saved.tensors.items():
                part, name = key.split("/", 1)
                if part == _DENSE:
                    deltas[name] = Dense(tensor)
                elif part == _A:
                    deltas[name] = LowRank(tensor, saved.tensors[f"{_B}/{name}"], saved.scales[name])
            edit = cls(deltas, saved.record, saved.strength)
        except (KeyError, ValueError, UsageError) as error:
            raise DataError(f"{saved.path} is not a whole edit ({error}): copy or make it again.") from error
        if edit.content_hash != saved.content_hash:
            raise DataError(f"{saved.path} was changed after it was written (its content hash does not fit): copy or make it again.")
        return edit


def _check_delta(name: str, delta: Delta, site: Site, skeleton: bool) -> None:
    if isinstance(delta, Dense):
        if not site.parameter.is_floating_point():
            raise UsageError(f"'{name}' is quantised in this model and cannot take a dense change: load the model without --load-in-4bit.")
        if site.parameter.is_meta and not skeleton:
            raise UsageError(f"'{name}' is offloaded by device_map, so it cannot take a dense change: load the model onto one device.")
        if delta.delta.shape != site.parameter.shape:
            raise UsageError(
                f"The change of '{name}' has shape {tuple(delta.delta.shape)}, the parameter has {tuple(site.parameter.shape)}."
            )
        return
    if site.tied:
        raise UsageError(f"'{name}' is tied to another module; a low-rank change would alter one use of it only: give a dense change.")
    axes = linear_axes(site.module)
    if axes is None or site.attribute != "weight":
        raise UsageError(
            f"'{name}' belongs to a module of type {type(site.module).__name__}; a low-rank change needs the weight of a linear one: "
            f"give a dense change instead."
        )
    if (delta.B.shape[0], delta.A.shape[1]) != (axes.outputs, axes.inputs):
        raise UsageError(
            f"The change of '{name}' is for {delta.A.shape[1]} inputs and {delta.B.shape[0]} outputs, "
            f"the module has {axes.inputs} and {axes.outputs}."
        )
