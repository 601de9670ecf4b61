"""Where an edit changes a model: size of the change by parameter, layer and kind of module."""

from __future__ import annotations

import re

import polars as pl
import torch

from fairforget.edits.combine import Layout, delta_product
from fairforget.edits.deltas import Delta, LowRank
from fairforget.edits.sites import linear_axes, stored_transposed
from fairforget.edits.weight_edit import WeightEdit
from fairforget.models.hidden_sites import in_attention, transformer_blocks
from fairforget.models.model import Model

CHANGE_SCHEMA: dict[str, pl.DataType] = {
    "parameter": pl.String(),
    "layer": pl.Int64(),  # number of the transformer block; null outside of them
    "module": pl.String(),  # "attention", "mlp", "norm", "embedding", "head" or "other"
    "vectors": pl.Int64(),  # of a matrix, one for each output (for each row of an embedding); 1 for a vector of parameters
    "changed": pl.Int64(),  # of these, those with a change
    "change": pl.Float64(),  # Frobenius norm of the change at the edit's strength
    "weight": pl.Float64(),  # Frobenius norm of the base's weight; null of one that is quantised or kept elsewhere
}
"""Columns of ``parameters.parquet``."""

_NORM = re.compile(r"norm|(^|\.)ln(_|\d|\.|$)", re.IGNORECASE)


@torch.no_grad()
def change_sizes(edit: WeightEdit, model: Model) -> pl.DataFrame:
    """‖s · Δ‖ and ‖θ₀‖ of every parameter that an edit changes, and how many of its vectors change at all.

    Args:
        edit: of weights, at its strength.
        model: its base, the edit not attached.

    Returns:
        Rows of ``CHANGE_SCHEMA``, in the order of the model.

    Raises:
        UsageError: the edit does not belong to the model.
    """
    sites = edit.sites(model.hf)
    layers = {id(parameter): index for index, block in enumerate(transformer_blocks(model) or ()) for parameter in block.parameters()}
    embedding = {id(parameter) for parameter in model.hf.get_input_embeddings().parameters()}
    body = {id(parameter) for parameter in model.hf.base_model.parameters()}
    order = {id(parameter): place for place, parameter in enumerate(model.hf.parameters())}
    rows: list[tuple[int, dict[str, object]]] = []
    for name, delta in edit.deltas.items():
        site = sites[name]
        parameter, key = site.parameter, id(site.parameter)
        axes = linear_axes(site.module) if site.attribute == "weight" else None
        outputs = axes.outputs if axes is not None else parameter.shape[0] if parameter.ndim > 1 else 1
        norm = _norm(name, delta)
        changed = _changed(delta, transposed=stored_transposed(site))
        kind = "embedding" if key in embedding else _kind(name, inside=key in layers, body=key in body)
        known = parameter.is_floating_point() and not parameter.is_meta
        weight = float(torch.linalg.vector_norm(parameter.detach().float())) if known else None
        rows.append((order[key], {
            "parameter": name, "layer": layers.get(key), "module": kind, "vectors": outputs, "changed": changed if edit.strength else 0,
            "change": norm * abs(edit.strength), "weight": weight,
        }))
    return pl.DataFrame([row for _, row in sorted(rows, key=lambda row: row[0])], schema=CHANGE_SCHEMA)


def _norm(name: str, delta: Delta) -> float:
    """Frobenius norm; of a product of factors without the product, of a dense change without a copy of it."""
    if isinstance(delta, LowRank):
        return max(delta_product(name, delta, delta, Layout(None)), 0.0) ** 0.5
    return float(torch.linalg.vector_norm(delta.delta, dtype=torch.float64 if delta.delta.device.type != "mps" else None))


def _changed(delta: Delta, *, transposed: bool) -> int:
    """Number of outputs with a change; of a product of factors without the product."""
    if isinstance(delta, LowRank):
        return int((delta.B != 0).any(dim=1).sum()) if delta.scale and bool((delta.A != 0).any()) else 0
    change = delta.delta
    if change.ndim < 2:
        return int(bool((change != 0).any()))
    rows = change.T if transposed else change.reshape(change.shape[0], -1)
    return int((rows != 0).any(dim=1).sum())


def _kind(name: str, *, inside: bool, body: bool) -> str:
    if _NORM.search(name):
        return "norm"
    if inside:
        return "attention" if in_attention(name) else "mlp"
    return "other" if body else "head"
