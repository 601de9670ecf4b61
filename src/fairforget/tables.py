"""The item table: the one form of everything that was measured, a row per scored unit, kept as Parquet.

Every figure, interval and test in this package is a pure function of such tables, so that any number can be recomputed, paired and
questioned without the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.errors import DataError
from fairforget.files import atomic_path

ITEM_SCHEMA: dict[str, pl.DataType] = {
    "benchmark": pl.String(),  # registry name, e.g. "crows-pairs"
    "protocol": pl.String(),  # how it was scored, e.g. "shared-pll"
    "task": pl.String(),  # unit of the ledger, e.g. "stereoset-intrasentence"
    "role": pl.String(),  # "bias" (to be forgotten) or "ability" (to be kept)
    "part": pl.String(),  # "select" or "test"
    "item": pl.String(),  # unique within (benchmark, task)
    "cluster": pl.String(),  # what is resampled: template, prompt, target term, article
    "stratum": pl.String(),  # clusters are resampled within strata: domain or category
    "groups": pl.List(pl.String()),  # demographic groups and domains; several at once are allowed
    "texts": pl.List(pl.String()),  # what was compared, most stereotypical first; empty where the item is a window of a corpus
    "scores": pl.List(pl.Float64()),  # one figure per text, in the protocol's unit (nats unless it says otherwise)
    "margin": pl.Float64(),  # score(stereotype) - score(anti-stereotype); > 0 prefers the stereotype; null for ability items
    "prefers_stereotype": pl.Float64(),  # 1, 0, or 0.5 for a tie; null for ability items
    "choice": pl.Int64(),  # index into `texts` of the text that scores highest; null on a tie, or where nothing is chosen
    "correct": pl.Float64(),  # ability in [0, 1]; for StereoSet the share of related texts that beat the unrelated one; null elsewhere
    "nll": pl.Float64(),  # summed negative log-likelihood of the item's scored tokens, nats
    "tokens": pl.Int64(),  # scored tokens behind `nll`
    "words": pl.Int64(),  # whitespace words behind `nll`, for word perplexity; null elsewhere
    "value": pl.Float64(),  # any other figure of the item: an association, a sentiment; null elsewhere
    "answer": pl.String(),  # what the model generated; null elsewhere
    "skipped": pl.String(),  # reason why the item has no score; null where it has one
    "prefix": pl.String(),  # prefix policy: "id 0", "[CLS]", "none"
    "prompt_format": pl.String(),  # "plain" or "chat"
    "prompt_hash": pl.String(),  # of everything the item asks, options and their order and the prompt among it; null in imported tables
}
"""Column names and types of an item table."""

TIE_NATS = 1e-4
"""Score differences under this are ties everywhere (batch plans may move float32 scores by less)."""


def item_table(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Build an item table from dicts; columns that a row lacks are null."""
    return pl.DataFrame([{name: row.get(name) for name in ITEM_SCHEMA} for row in rows], schema=ITEM_SCHEMA)


def preference(margin: float, tie: float = TIE_NATS) -> float:
    """1 for a stereotype preferred, 0 for the opposite, 0.5 for a tie (under `tie` nats; equal scores always tie)."""
    if margin == 0 or abs(margin) < tie:
        return 0.5
    return 1.0 if margin > 0 else 0.0


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write Parquet whole or not at all."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def read_table(path: Path, columns: Iterable[str] = ()) -> pl.DataFrame:
    """Read a Parquet table and check that it has the named columns.

    Raises:
        DataError: the file is missing, damaged, or lacks a column.
    """
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"The table {path} cannot be read ({str(error).splitlines()[0]}): run the command that made it again.") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"The table {path} has no column {', '.join(missing)}: it was not written by this version of fairforget.")
    return table
