"""Curvature of a loss at a model's present weights, and along a step that was or will be taken from there, by group.

ρ = max |λ| of the Hessian of task A's loss at θ_A stands for how narrow its minimum is; what enters forgetting is the curvature along the
step Δ alone: ΔL ≈ g·Δ + ½ ΔᵀHΔ ≤ ‖g‖‖Δ‖ + ½ λ_max ‖Δ‖² (Mirzadeh et al. 2020, arXiv 2006.06958). Radii of different scopes of parameters
are not comparable, so scope and number of parameters stand in every result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fairforget.errors import UsageError
from fairforget.forgetting.hessian import Hessian, Product
from fairforget.forgetting.lanczos import Estimate, Ritz, hutchinson_trace, lanczos, power_iteration, random_vector
from fairforget.forgetting.row_loss import Displacement, Loss


@dataclass(frozen=True)
class Curvature:
    """Curvature of a loss at one point.

    Attributes:
        scope: the parameters that were looked at.
        parameters: how many numbers they are.
        units: supervised tokens behind the loss.
        product: how the Hessian met vectors.
        step: ε of central differences, None under ``autograd``.
        loss: L, nats a token.
        gradient_norm: ‖∇L‖.
        ritz: all Ritz values with their residual norms.
        power: power iteration's eigenvalue of largest size, where it was asked for.
        trace: tr H with its standard error, where it was asked for.
    """

    scope: str
    parameters: int
    units: int
    product: str
    step: float | None
    loss: float
    gradient_norm: float
    ritz: Ritz
    power: Estimate | None
    trace: Estimate | None

    @property
    def lambda_max(self) -> Estimate:
        """Largest eigenvalue; Lanczos comes to it from below."""
        return Estimate(float(self.ritz.values[-1]), float(self.ritz.errors[-1]))

    @property
    def lambda_min(self) -> Estimate:
        """Smallest eigenvalue; Lanczos comes to it from above."""
        return Estimate(float(self.ritz.values[0]), float(self.ritz.errors[0]))

    @property
    def spectral_radius(self) -> Estimate:
        """Largest size of an eigenvalue, max |λ|."""
        place = self.ritz.dominant
        return Estimate(abs(float(self.ritz.values[place])), float(self.ritz.errors[place]))

    def bound(self, distance: float) -> float:
        """What a step of this length can at most add to the loss, to second order: see :func:`change_bound`."""
        return change_bound(self.gradient_norm, self.lambda_max.value, distance)

    def table(self) -> pl.DataFrame:
        """A row per figure: ``figure``, ``value``, ``error``, ``error_kind``, and scope, parameters, tokens and product of all."""
        rows: list[tuple[str, float, float | None, str]] = [
            ("loss", self.loss, None, ""),
            ("gradient_norm", self.gradient_norm, None, ""),
            *((name, found.value, found.error, "residual norm") for name, found in (
                ("spectral_radius", self.spectral_radius), ("lambda_max", self.lambda_max), ("lambda_min", self.lambda_min),
            )),
        ]
        if self.power is not None:
            rows.append(("power_iteration", self.power.value, self.power.error, "residual norm"))
        if self.trace is not None:
            rows.append(("trace", self.trace.value, self.trace.error, "standard error"))
            rows.append(("trace_per_parameter", self.trace.value / self.parameters, self.trace.error / self.parameters, "standard error"))
        schema = {"figure": pl.String, "value": pl.Float64, "error": pl.Float64, "error_kind": pl.String}
        facts: dict[str, Any] = {"scope": self.scope, "parameters": self.parameters, "tokens": self.units, "product": self.product}
        return pl.DataFrame(rows, schema=schema, orient="row").with_columns(**{name: pl.lit(value) for name, value in facts.items()})


def curvature(
    loss: Loss,
    *,
    product: Product = "auto",
    step: float | None = None,
    vectors: int = 30,
    tolerance: float = 1e-3,
    power_iterations: int = 0,
    probes: int = 10,
    seed: int = 0,
) -> Curvature:
    """Extreme eigenvalues, trace and gradient norm of a loss at the model's present weights.

    Args:
        loss: over a fixed list of batches.
        product: how the Hessian meets vectors.
        step: ε of central differences; of a sweep by default.
        vectors: m of Lanczos, and so the vectors that are held.
        tolerance: Lanczos stops where both ends have a residual under this share of the radius.
        power_iterations: products of power iteration; 0 leaves the cross-check out.
        probes: vectors of the trace; 0 leaves it out.
        seed: of all vectors that are drawn.

    Raises:
        UsageError: numbers out of range, or attention without an eager form.
        FairforgetError: a product that is not finite.
    """
    hessian = Hessian(loss, product, step)
    like = loss.zeros()
    ritz = lanczos(hessian, random_vector(like, seed), vectors=vectors, tolerance=tolerance)
    power = (
        power_iteration(hessian, random_vector(like, seed + 1), iterations=power_iterations, tolerance=tolerance)
        if power_iterations else None
    )
    trace = hutchinson_trace(hessian, like, probes=probes, seed=seed + 2) if probes else None
    return Curvature(
        loss.scope, loss.size, int(loss.units), hessian.product, hessian.step, float(loss.average(loss.sums())[0]),
        float(loss.gradient().norm()), ritz, power, trace,
    )


def change_bound(gradient_norm: float, lambda_max: float, distance: float) -> float:
    """‖g‖‖Δ‖ + ½ λ_max ‖Δ‖², nats a token; a λ_max below 0 counts as 0."""
    return gradient_norm * distance + 0.5 * max(lambda_max, 0.0) * distance**2


@dataclass(frozen=True)
class DirectionalCurvature:
    """Curvature along a displacement Δ.

    Attributes:
        scope: the parameters that Δ moves.
        parameters: how many numbers they are.
        distance: ‖Δ‖.
        product: how the Hessian met Δ.
        groups: a row for all and for each group: ``group``, ``tokens``, ``loss`` at θ, ``slope`` g·Δ, ``half_curvature`` ½ΔᵀHΔ,
            ``predicted`` their sum, ``measured`` L(θ + Δ) − L(θ) (null where it was not asked for); nats a token.
    """

    scope: str
    parameters: int
    distance: float
    product: str
    groups: pl.DataFrame


def directional_curvature(
    loss: Loss, displacement: Displacement, *, product: Product = "auto", step: float | None = None, measured: bool = True
) -> DirectionalCurvature:
    """g·Δ and ½ΔᵀHΔ of the loss and of each group's loss, from one pass over the rows however many groups there are.

    Args:
        loss: at θ; its scope must hold every parameter that is displaced.
        displacement: Δ by parameter name.
        product: how the Hessian meets Δ.
        step: ε of central differences; of a sweep by default.
        measured: also compute what the step does to the loss.

    Raises:
        UsageError: Δ is zero, or leaves the scope.
    """
    moving = loss.over(tuple(displacement))
    moving.check(displacement)
    distance = float(np.sqrt(sum(float(delta.double().square().sum()) for delta in displacement.values())))
    if not distance:
        raise UsageError("The displacement is zero, so there is no direction to measure curvature along.")
    hessian = Hessian(moving, product, step)
    start = moving.average(moving.sums())
    slope = moving.average(moving.slopes(displacement).sum(axis=1))
    half = 0.5 * moving.average(hessian.quadratic(displacement))
    change = measured_change(moving, displacement) if measured else None
    groups = pl.DataFrame({
        "group": moving.names, "tokens": moving.counts, "loss": start, "slope": slope, "half_curvature": half, "predicted": slope + half,
        "measured": pl.Series(change if change is not None else [None] * len(start), dtype=pl.Float64),
    })
    return DirectionalCurvature(moving.scope, moving.size, distance, hessian.product, groups)


def measured_change(loss: Loss, displacement: Displacement) -> np.ndarray[Any, np.dtype[np.float64]]:
    """L(θ + Δ) − L(θ), overall and by group, (1 + groups,), nats a token."""
    start = loss.sums()
    with loss.moved(displacement) as move:
        move(1.0)
        return loss.average(loss.sums() - start)
