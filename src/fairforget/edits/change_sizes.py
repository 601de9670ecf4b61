"""Where an edit changes a model: size of the change by parameter, layer and kind of module."""

from __future__ import annotations

import re

import polars as pl
import torch

from fairforget.edits.deltas import Delta, LowRank
from fairforget.edits.weight_edit import WeightEdit
from fairforget.models.hidden_sites import blocks
from fairforget.models.model import Model

CHANGE_SCHEMA: dict[str, pl.DataType] = {
    "parameter": pl.String(),
    "layer": pl.Int64(),  # number of the transformer block; null outside of them
    "module": pl.String(),  # "attention", "mlp", "norm", "embedding", "head" or "other"
    "vectors": pl.Int64(),  # rows of a matrix, as the model stores it; 1 for a vector of parameters
    "changed": pl.Int64(),  # of these, rows with a change
    "change": pl.Float64(),  # Frobenius norm of the change at the edit's strength
    "weight": pl.Float64(),  # Frobenius norm of the base's weight
}
"""Columns of ``parameters.parquet``."""

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
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
    found = blocks(model.hf.base_model, int(getattr(model.hf.config.get_text_config(), "num_hidden_layers", 0)))
    layers = {id(parameter): index for index, block in enumerate(found or ()) for parameter in block.parameters()}
    embedding = {id(parameter) for parameter in model.hf.get_input_embeddings().parameters()}
    body = {id(parameter) for parameter in model.hf.base_model.parameters()}
    order = {id(parameter): place for place, parameter in enumerate(model.hf.parameters())}
    rows: list[tuple[int, dict[str, object]]] = []
    for name, delta in edit.deltas.items():
        parameter = sites[name].parameter
        key = id(parameter)
        norm, changed = _size(delta)
        kind = "embedding" if key in embedding else _kind(name, inside=key in layers, body=key in body)
        rows.append((order[key], {
            "parameter": name, "layer": layers.get(key), "module": kind, "vectors": parameter.shape[0] if parameter.ndim > 1 else 1,
            "changed": changed if edit.strength else 0, "change": norm * abs(edit.strength),
            "weight": float(torch.linalg.vector_norm(parameter.detach().float())),
        }))
    return pl.DataFrame([row for _, row in sorted(rows, key=lambda row: row[0])], schema=CHANGE_SCHEMA)


def _size(delta: Delta) -> tuple[float, int]:
    """Frobenius norm and number of changed rows; of a product of factors without the product."""
    if isinstance(delta, LowRank):
        a, b = delta.A.double().cpu(), delta.B.double().cpu()
        square = delta.scale**2 * float(((b.T @ b) * (a @ a.T)).sum())
        changed = int((b != 0).any(dim=1).sum()) if delta.scale and bool((a != 0).any()) else 0
        return max(square, 0.0) ** 0.5, changed
    change = delta.delta.detach()
    rows = change.reshape(change.shape[0], -1) if change.ndim > 1 else change.reshape(1, -1)
    return float(torch.linalg.vector_norm(change.double())), int((rows != 0).any(dim=1).sum())


def _kind(name: str, *, inside: bool, body: bool) -> str:
    if _NORM.search(name):
        return "norm"
    if inside:
        return "attention" if _ATTENTION.search(name) else "mlp"
    return "other" if body else "head"
