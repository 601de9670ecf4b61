"""Which parameters, or parts of parameters, are trained; everything else stays as it is to the last bit.

A gradient hook sets the gradient of an unselected entry to zero, which is enough for an optimiser without weight decay: AdamW's moments
of that entry stay zero, and so does its step. Decoupled weight decay would still shrink it, and momentum from elsewhere could move it, so
unselected entries are also put back after every step of whatever optimiser holds the parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fairforget.edits.sites import Site, find_sites
from fairforget.errors import UsageError, nearest_names


@dataclass(frozen=True, eq=False)
class Selection:
    """What is trained: whole parameters by name, and parts of parameters by mask.

    A tied weight is one parameter: it is named once, under any of its names, and trained wherever it is used.

    Attributes:
        names: parameters that are trained whole.
        masks: parameters that are trained in part; bool, the shape of the parameter as the model stores it, true where it is trained.
        facts: how the selection was found, as JSON values, for the record of an edit.
    """

    names: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            if mask.dtype is not torch.bool:
                raise UsageError(f"The mask of '{name}' must hold true and false, not {mask.dtype}.")
        if not self.names and not any(bool(mask.any()) for mask in self.masks.values()):
            raise UsageError("The selection is empty: nothing would be trained. Choose a larger share or another selector.")

    def describe(self) -> dict[str, Any]:
        """What a record says of the selection: how it was found, parameters trained whole, and entries of those trained in part."""
        return {
            **self.facts,
            "whole": list(self.names),
            "partial": {name: [int(mask.sum()), mask.numel()] for name, mask in self.masks.items()},
        }

    def count(self, hf: nn.Module) -> int:
        """Numbers of a model that are trained.

        Raises:
            UsageError: as :meth:`applied`.
        """
        whole, masks = self._resolved(hf)
        return sum(site.parameter.numel() for site in whole) + sum(int(mask.sum()) for _, mask in masks)

    @contextlib.contextmanager
    def applied(self, hf: nn.Module) -> Generator[None]:
        """While the block runs only the selected entries can be trained, by any torch optimiser; then flags and hooks are as before.

        Args:
            hf: the network. Parameters must be whole tensors (FSDP's flat parameters are not).

        Raises:
            UsageError: a parameter that the network has not, one named twice, one that cannot be trained, or a mask of another shape.
        """
        whole, masks = self._resolved(hf)
        flags = {name: parameter.requires_grad for name, parameter in hf.named_parameters()}
        kept = {
            id(site.parameter): (mask.to(site.parameter.device), site.parameter.detach().clone()) for site, mask in masks if not mask.all()
        }

        @torch.no_grad()
        def put_back(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if id(parameter) in kept:
                        mask, before = kept[id(parameter)]
                        parameter.copy_(torch.where(mask, parameter, before))

        with contextlib.ExitStack() as stack:
            for parameter in hf.parameters():
                parameter.requires_grad_(False)
            stack.callback(_set_flags, hf, flags)
            for site in [*whole, *(site for site, _ in masks)]:
                site.parameter.requires_grad_(True)
            for site, _ in masks:
                if id(site.parameter) in kept:
                    handle = site.parameter.register_hook(_Masked(kept[id(site.parameter)][0]))
                    stack.callback(handle.remove)
            if kept:
                stack.callback(register_optimizer_step_post_hook(put_back).remove)
            yield

    def _resolved(self, hf: nn.Module) -> tuple[list[Site], list[tuple[Site, Tensor]]]:
        known = find_sites(hf)
        seen: dict[str, str] = {}
        sites: dict[str, Site] = {}
        for name in (*self.names, *self.masks):
            site = known.get(name)
            if site is None:
                raise UsageError(f"The model has no parameter '{name}', which is to be trained: {nearest_names(name, known)}")
            if site.name in seen:
                raise UsageError(f"'{name}' and '{seen[site.name]}' are one parameter of the model: select it once, whole or by a mask.")
            if not site.parameter.is_floating_point():
                raise UsageError(f"'{name}' is quantised and cannot be trained: load the model without --load-in-4bit, or use a LoRA.")
            seen[site.name], sites[name] = name, site
        for name, mask in self.masks.items():
            if mask.shape != sites[name].parameter.shape:
                raise UsageError(
                    f"The mask of '{name}' has shape {tuple(mask.shape)}, the parameter has {tuple(sites[name].parameter.shape)}."
                )
        return [sites[name] for name in self.names], [(sites[name], mask) for name, mask in self.masks.items() if bool(mask.any())]


class _Masked:
    """Sets the gradient of unselected entries to zero, whatever it was (a product with 0 would keep infinities)."""

    def __init__(self, mask: Tensor) -> None:
        self.unselected = ~mask

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient.masked_fill(self.unselected, 0.0)


def _set_flags(hf: nn.Module, flags: Mapping[str, bool]) -> None:
    for name, parameter in hf.named_parameters():
        if name in flags:
            parameter.requires_grad_(flags[name])
