"""What each module did to a group's loss over a step: the path integral of the gradient, split by parameter.

f_g = L_g(θ + Δ) − L_g(θ) = ∫₀¹ ∇L_g(θ + tΔ)·Δ dt is a sum over parameters and so over modules: integrated gradients (Sundararajan et al.
2017, arXiv 1703.01365) over weights along the straight line; along a training path it is loss change allocation (Lan et al. 2019, arXiv
1909.01440).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fairforget.errors import UsageError, unknown_name
from fairforget.forgetting.curvature import measured_change
from fairforget.forgetting.row_loss import Displacement, Loss
from fairforget.progress import track

Depth: TypeAlias = Literal["parameter", "module", "block"]


@dataclass(frozen=True)
class Attribution:
    """Nats a token that each parameter added to the loss of each group over a step; above 0 is forgetting.

    Attributes:
        groups: all rows, then each group.
        parameters: names, in the order of the network.
        nats: float64 (groups, parameters).
        measured: float64 (groups,), L_g(θ + Δ) − L_g(θ).
        tokens: int64 (groups,).
        nodes: of the Gauss–Legendre rule.
    """

    groups: list[str]
    parameters: list[str]
    nats: NDArray[np.float64]
    measured: NDArray[np.float64]
    tokens: NDArray[np.int64]
    nodes: int

    def completeness(self) -> pl.DataFrame:
        """Whether the parts add up: ``attributed`` Σ, ``measured`` ΔL, ``difference`` and ``error`` |Σ − ΔL| / |ΔL| (null where ΔL is 0).

        More nodes lower the error; what is left where ΔL is tiny is rounding, as the difference in nats shows.
        """
        total = self.nats.sum(axis=1)
        difference = np.abs(total - self.measured)
        error = [gap / abs(change) if change else None for gap, change in zip(difference, self.measured, strict=True)]
        return pl.DataFrame({
            "group": self.groups, "tokens": self.tokens, "attributed": total, "measured": self.measured, "difference": difference,
            "error": pl.Series(error, dtype=pl.Float64),
        })

    def by(self, depth: Depth = "block") -> pl.DataFrame:
        """Nats by place and group: ``group``, ``place``, ``nats`` a token; places in the order of the network.

        Args:
            depth: ``parameter``, the ``module`` that owns it, or the ``block`` (layer) it lies in; what is in no block goes by its module.
        """
        if depth not in get_args(Depth):
            raise unknown_name("depth", depth, get_args(Depth))
        places = [place_of(name, depth) for name in self.parameters]
        order = list(dict.fromkeys(places))
        member = np.array([[place == own for own in places] for place in order], dtype=np.float64)
        nats = self.nats @ member.T
        return pl.DataFrame({
            "group": np.repeat(self.groups, len(order)), "place": order * len(self.groups), "nats": nats.ravel(),
        })


def path_attribution(loss: Loss, displacement: Displacement, *, nodes: int = 8) -> Attribution:
    """Integrate the gradient from the present weights to where Δ leads, in one pass over the rows for each node.

    Held meanwhile: the model, Δ, and the displaced parameters as they were; gradients are multiplied and freed one by one.

    Args:
        loss: at θ; its scope must hold every parameter that is displaced.
        displacement: Δ by parameter name.
        nodes: of the Gauss–Legendre rule, exact for gradients that are polynomials of degree 2 · nodes − 1 along the line.

    Raises:
        UsageError: no node, nothing displaced, or Δ leaves the scope.
    """
    if nodes < 1:
        raise UsageError(f"The path needs at least one node, not {nodes}.")
    if not displacement:
        raise UsageError("Nothing is displaced, so there is no path to integrate along.")
    ordered = {name: displacement[name] for name in loss.parameters if name in displacement}
    loss.check(displacement)
    places, weights = np.polynomial.legendre.leggauss(nodes)
    sums = np.zeros((len(loss.cells), len(ordered)))
    with loss.moved(ordered) as move:
        for place, weight in track(list(zip(places, weights, strict=True)), "path attribution", nodes):
            move(float(1 + place) / 2)
            sums += weight / 2 * loss.slopes(ordered)
    return Attribution(loss.names, list(ordered), loss.average(sums), measured_change(loss, ordered), loss.counts, nodes)


def place_of(name: str, depth: Depth) -> str:
    """Where a parameter lies: ``model.layers.3.mlp.up_proj.weight`` is in the block ``model.layers.3``."""
    if depth == "parameter":
        return name
    pieces = name.split(".")
    module = ".".join(pieces[:-1]) or name
    if depth == "module":
        return module
    numbered: Sequence[int] = [place for place, piece in enumerate(pieces) if piece.isdigit()]
    return ".".join(pieces[: numbered[0] + 1]) if numbered else module
