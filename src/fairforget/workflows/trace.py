"""Where in a model stereotype associations sit: causal tracing of pairs, a table of traces and its summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.errors import UsageError, unknown_name
from fairforget.files import write_json
from fairforget.methods._associations import find_associations
from fairforget.methods._base import provenance_of
from fairforget.methods._tracing import PARTS, Part, Tracing
from fairforget.methods._tracing import trace as trace_associations
from fairforget.models import Model
from fairforget.stats.bootstrap import cluster_bootstrap
from fairforget.stats.cluster_sums import Components
from fairforget.tables import write_table


@dataclass(frozen=True)
class TraceResult:
    """What tracing found.

    Attributes:
        traces: a row per association, part, layer and role: number and cluster of the pair, kind, and the margins of the clean, the
            corrupted and the restored run, nats.
        summary: by part, layer and role: ``effect`` (mean, nats), ``share`` of the total effect with its 95 % interval ``low`` and ``high``
            (null with a ``note`` where there is none), and ``associations``.
        folder: where both were written, or None.
    """

    traces: pl.DataFrame
    summary: pl.DataFrame
    folder: Path | None = None


def trace(
    model: Model,
    data: TrainingSource | Sequence[TrainingText],
    *,
    pairs: int = 16,
    parts: Sequence[str] = PARTS,
    noise: float = 3.0,
    samples: int = 3,
    window: int | None = None,
    seed: int = 0,
    resamples: int = 2000,
    out: Path | None = None,
) -> TraceResult:
    """Trace stereotype associations through a model.

    Args:
        model: causal or masked, in its present state.
        data: texts with counterparts.
        pairs: how many of them, drawn by the seed.
        parts: what is restored: ``hidden``, ``mlp``, ``attention``.
        noise: standard deviation of the noise, in those of the embedding table.
        samples: draws of noise.
        window: neighbouring layers restored together for ``mlp`` and ``attention``; a fifth of all by default.
        seed: of pairs, noise and resampling.
        resamples: bootstrap resamples of every interval.
        out: folder for ``trace.parquet``, ``summary.parquet`` and ``trace.json``.

    Raises:
        UsageError: no pairs, an unknown part, a setting out of range, or a model whose blocks cannot be found.
    """
    for part in parts:
        if part not in PARTS:
            raise unknown_name("part to restore", part, PARTS)
    if pairs < 1 or samples < 1 or noise <= 0 or not parts or (window is not None and window < 1):
        raise UsageError("Tracing needs at least one pair, one part, one sample and one layer in a window, and noise above 0.")
    rows = [row for row in (data.texts if isinstance(data, TrainingSource) else data) if row.counterpart]
    if not rows:
        raise UsageError("Tracing compares stereotypes with their counterparts, and these data give none: use starter or stereoset.")
    drawn = [rows[index] for index in np.random.default_rng([seed, 17]).permutation(len(rows))[:pairs].tolist()]
    associations = find_associations(model, [(row.text, row.counterpart) for row in drawn])
    layers = int(model.hf.config.get_text_config().num_hidden_layers)
    chosen: tuple[Part, ...] = tuple(part for part in PARTS if part in parts)
    tracing = Tracing(noise=noise, samples=samples, parts=chosen, window=window or max(1, layers // 5))
    found = trace_associations(model, associations, tracing, seed=seed)
    clusters = pl.DataFrame({"pair": range(len(drawn)), "cluster": [row.cluster for row in drawn]}, schema_overrides={"pair": pl.Int64})
    traces = found.join(clusters, on="pair", how="left")
    summary = summary_with_intervals(traces, resamples=resamples, seed=seed)
    if out is not None:
        write_table(traces, out / "trace.parquet")
        write_table(summary, out / "summary.parquet")
        record: dict[str, Any] = {
            "model": model.source, "state": model.state_id, "family": model.family, "seed": seed, "pairs": len(drawn),
            "associations": len(associations), "tracing": {"noise": noise, "samples": samples, "parts": chosen, "window": tracing.window},
            "data": provenance_of(data),
        }
        write_json(out / "trace.json", record)
    return TraceResult(traces, summary, out)


def summary_with_intervals(traces: pl.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pl.DataFrame:
    """Average indirect effect by part, layer and role, with the interval of its share of the total effect over clusters of pairs.

    The share is Σ sign(clean - corrupted) · (restored - corrupted) / Σ |clean - corrupted|.
    """
    rows: list[dict[str, Any]] = []
    for (part, layer, role), group in traces.group_by("part", "layer", "role", maintain_order=True):
        total = (group["clean"] - group["corrupted"]).to_numpy()
        effect = np.sign(total) * (group["restored"] - group["corrupted"]).to_numpy()
        interval = cluster_bootstrap(
            Components(effect, np.abs(total), group["cluster"].to_numpy(), np.zeros(len(total), dtype=np.int64)), resamples=resamples,
            seed=seed,
        )
        ends = [None if np.isnan(end) else float(end) for end in (interval.low, interval.high)]
        rows.append({
            "part": part, "layer": layer, "role": role, "effect": float(effect.mean()), "share": float(interval.value), "low": ends[0],
            "high": ends[1], "associations": len(total), "note": interval.note,
        })
    return pl.DataFrame(rows, schema_overrides={"low": pl.Float64, "high": pl.Float64, "layer": pl.Int64})
