"""Where the parameters of a model sit: their names, aliases of tied weights, owners, and the axes of linear modules."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, eq=False)
class Site:
    """One parameter of a model.

    Attributes:
        name: the first of its names, the one that ``named_parameters`` gives.
        parameter: the tensor itself.
        module: the module that owns it under that name.
        module_name: dotted name of that module.
        attribute: name of the parameter in that module.
        tied: whether another module owns the same tensor too.
    """

    name: str
    parameter: nn.Parameter
    module: nn.Module
    module_name: str
    attribute: str
    tied: bool


@dataclass(frozen=True)
class LinearAxes:
    """Sizes of a linear module; `transposed` means that its weight is stored (in, out)."""

    inputs: int
    outputs: int
    transposed: bool


def find_sites(hf: nn.Module) -> dict[str, Site]:
    """Return every parameter under every name it has; the names of a tied tensor share one site."""
    names: dict[int, list[tuple[str, nn.Module, str, nn.Parameter]]] = defaultdict(list)
    for module_name, module in hf.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            names[id(parameter)].append((module_name, module, attribute, parameter))
    sites: dict[str, Site] = {}
    for uses in names.values():
        module_name, module, attribute, parameter = uses[0]
        tied = any(use[1] is not module for use in uses)
        site = Site(_joined(module_name, attribute), parameter, module, module_name, attribute, tied)
        sites.update({_joined(use[0], use[2]): site for use in uses})
    return sites


def linear_axes(module: nn.Module) -> LinearAxes | None:
    """Axes of a linear module (4-bit ones and GPT-2's Conv1D included), or None for any other."""
    if isinstance(module, Conv1D):
        return LinearAxes(inputs=module.nx, outputs=module.nf, transposed=True)
    if isinstance(module, nn.Linear):
        return LinearAxes(inputs=module.in_features, outputs=module.out_features, transposed=False)
    return None


def stored_transposed(site: Site) -> bool:
    """Whether this parameter is a weight matrix stored (in, out)."""
    axes = linear_axes(site.module)
    return site.attribute == "weight" and axes is not None and axes.transposed


def _joined(module_name: str, attribute: str) -> str:
    return f"{module_name}.{attribute}" if module_name else attribute
