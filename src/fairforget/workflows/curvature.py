"""Curvature of a loss where a model stands, what a step from there cost each group, and which modules the cost came through."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field, field_validator

from fairforget.edits import Edit
from fairforget.errors import UsageError
from fairforget.files import write_json
from fairforget.forgetting.attribution import Attribution, Depth, path_attribution
from fairforget.forgetting.curvature import Curvature, DirectionalCurvature, curvature, directional_curvature
from fairforget.forgetting.hessian import Product
from fairforget.forgetting.row_loss import Scope, displacement, row_loss
from fairforget.methods._selectors import find_selection
from fairforget.models import Model
from fairforget.objectives import CrossEntropy
from fairforget.settings import Settings
from fairforget.tables import write_table
from fairforget.workflows.loss_rows import GroupedRow

SELECTORS = re.compile(r"attention|mlp|layers:\d+(-\d+)?")
"""Selectors of methods that are found without training pairs."""


class CurvatureSettings(Settings):
    """How curvature is measured."""

    scope: str = "all"
    """Parameters of the spectrum: `all`; `edit`, what the step moves; `attention`, `mlp` or `layers:2-4`; or names and patterns such as
    `*.mlp.*`, comma-separated. Radii of different scopes are not comparable."""
    product: Product = "auto"
    """How the Hessian meets vectors: `autograd` differentiates twice, with eager attention; `finite-difference` needs the memory of
    training only; `auto` is the first where it can be had."""
    vectors: int = Field(default=30, ge=0)
    """Vectors of Lanczos, which are held at once; 0 leaves the spectrum out."""
    tolerance: float = Field(default=1e-3, ge=0)
    """Lanczos stops where both ends have a residual under this share of the spectral radius."""
    power_iterations: int = Field(default=0, ge=0)
    """Products of power iteration, a cross-check of Lanczos; 0 leaves it out."""
    probes: int = Field(default=10, ge=0)
    """Probes of the trace (Hutchinson), at least 2; 0 leaves it out."""
    nodes: int = Field(default=8, ge=0)
    """Nodes of the path attribution (Gauss–Legendre), each a pass over the rows; 0 leaves it out."""
    depth: Depth = "block"
    """Places of the attribution: `parameter`, `module` or `block` (layer)."""
    seed: int = Field(default=0, ge=0)
    """Seed of all vectors."""

    @field_validator("probes")
    @classmethod
    def _spread_of_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one probe has no standard error: take 0, or at least 2")
        return value


@dataclass(frozen=True)
class CurvatureResult:
    """What was measured.

    Attributes:
        spectrum: at θ; None where it was left out.
        step: along Δ, overall and by group; None without a step.
        attribution: of the loss along Δ to parameters and groups; None without a step, or where it was left out.
        bound: ‖g‖‖Δ‖ + ½ λ_max ‖Δ‖², where the spectrum's scope holds all that moved.
        depth: of the places in the table of the attribution.
        folder: where the tables were written, or None.
    """

    spectrum: Curvature | None
    step: DirectionalCurvature | None
    attribution: Attribution | None
    bound: float | None
    depth: Depth
    folder: Path | None = None

    def tables(self) -> dict[str, pl.DataFrame]:
        """Tables by name: ``curvature``, ``ritz``, ``directional``, ``attribution``, ``completeness``; those that there are."""
        found: dict[str, pl.DataFrame] = {}
        if self.spectrum is not None:
            found["curvature"] = self.spectrum.table()
            found["ritz"] = pl.DataFrame({"value": self.spectrum.ritz.values, "residual": self.spectrum.ritz.errors})
        if self.step is not None:
            found["directional"] = self.step.groups
        if self.attribution is not None:
            found |= {"attribution": self.attribution.by(self.depth), "completeness": self.attribution.completeness()}
        return found


def measure_curvature(
    model: Model,
    rows: Sequence[GroupedRow],
    *,
    edit: Edit | Sequence[Edit] = (),
    start: Edit | Sequence[Edit] = (),
    settings: CurvatureSettings | None = None,
    out: Path | None = None,
    facts: Mapping[str, Any] | None = None,
) -> CurvatureResult:
    """Measure the curvature of cross-entropy on rows at θ_A, and along the step from θ_A to θ_AB.

    Args:
        model: the base, with no edit attached.
        rows: of the loss; see :func:`fairforget.workflows.loss_rows.benchmark_rows`.
        edit: what leads from the base to θ_AB, each at its strength; none measures the spectrum alone.
        start: what leads from the base to θ_A; none for θ_A = the base.
        settings: how.
        out: folder for the tables as Parquet and ``curvature.json``.
        facts: what else the record should hold, e.g. where the rows come from.

    Raises:
        UsageError: an edit that is no change of weights, a scope that holds nothing, settings out of range.
    """
    settings = settings or CurvatureSettings()
    ends, starts = ([one] if isinstance(one, Edit) else list(one) for one in (edit, start))
    moved = displacement(model, ends, starts) if ends else {}
    if not moved and not settings.vectors:
        raise UsageError("There is nothing to measure: ask for vectors of Lanczos, or give a step.")
    scope = resolve_scope(model, settings.scope, tuple(moved))
    with contextlib.ExitStack() as stack:
        for one in starts:
            stack.enter_context(one.applied(model))
        loss = row_loss(model, [row for row, _ in rows], CrossEntropy(), groups=[groups for _, groups in rows], scope=scope)
        spectrum = (
            curvature(
                loss, product=settings.product, vectors=settings.vectors, tolerance=settings.tolerance,
                power_iterations=settings.power_iterations, probes=settings.probes, seed=settings.seed,
            )
            if settings.vectors else None
        )
        step = attribution = None
        if moved:
            moving = loss.over(tuple(moved))
            step = directional_curvature(moving, moved, product=settings.product)
            attribution = path_attribution(moving, moved, nodes=settings.nodes) if settings.nodes else None
        state = model.state_id
    covered = spectrum is not None and step is not None and set(moved) <= set(loss.parameters)
    bound = spectrum.bound(step.distance) if spectrum is not None and step is not None and covered else None
    result = CurvatureResult(spectrum, step, attribution, bound, settings.depth, out)
    if out is not None:
        for name, table in result.tables().items():
            write_table(table, out / f"{name}.parquet")
        write_json(out / "curvature.json", {
            "model": model.source, "state": state, "family": model.family, "rows": len(rows), "tokens": int(loss.units),
            "scope": loss.scope, "parameters": loss.size, "settings": settings.model_dump(mode="json"),
            "product": spectrum.product if spectrum else step.product if step else None, "step_size": spectrum.step if spectrum else None,
            "step": [one.state_fragment() for one in ends], "distance": step.distance if step else None, "bound": bound, **(facts or {}),
        })
    return result


def resolve_scope(model: Model, scope: str, moved: Sequence[str] = ()) -> Scope:
    """Parameters of a scope in words; see :class:`CurvatureSettings`.

    Raises:
        UsageError: ``edit`` without a step, or layers that the model has not.
    """
    if scope == "edit":
        if not moved:
            raise UsageError("The scope 'edit' is what a step moves, and there is none: name an edit, or another scope.")
        return tuple(moved)
    if SELECTORS.fullmatch(scope):
        return find_selection(model, scope, ()).names
    return scope if scope == "all" else [name.strip() for name in scope.split(",") if name.strip()]
