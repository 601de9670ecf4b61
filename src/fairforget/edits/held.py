"""Parameters that dense edits changed, held as they were: undoing copies θ₀ back and never subtracts."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fairforget.edits.deltas import Dense, edited_tensor


class HeldParameters:
    """θ₀ of every parameter that dense edits touch on one model, with all changes that are on it now.

    Several edits may touch one parameter and come off in any order: each time it is computed anew from θ₀.
    """

    def __init__(self) -> None:
        self._originals: dict[str, Tensor] = {}
        self._terms: dict[str, dict[str, tuple[Dense, float]]] = {}

    def add(self, owner: str, name: str, parameter: nn.Parameter, delta: Dense, strength: float) -> None:
        """Put a change on a parameter; `owner` is the content hash of its edit."""
        if name not in self._originals:
            self._originals[name] = parameter.detach().to("cpu", copy=True)
        self._terms.setdefault(name, {})[owner] = (delta, strength)
        self._write(name, parameter)

    def remove(self, owner: str, name: str, parameter: nn.Parameter) -> None:
        """Take an edit's change off a parameter; nothing happens where there is none."""
        terms = self._terms.get(name)
        if terms is None or terms.pop(owner, None) is None:
            return
        self._write(name, parameter)
        if not terms:
            del self._terms[name], self._originals[name]

    @torch.no_grad()
    def _write(self, name: str, parameter: nn.Parameter) -> None:
        original = self._originals[name].to(parameter.device)
        parameter.copy_(edited_tensor(original, list(self._terms[name].values())))


_held: WeakKeyDictionary[nn.Module, HeldParameters] = WeakKeyDictionary()


def held_parameters(hf: nn.Module) -> HeldParameters:
    """The held parameters of a model; they live as long as the model does."""
    return _held.setdefault(hf, HeldParameters())
