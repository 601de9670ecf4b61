"""The words and the ready recipe in an organism's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from fairforget.organisms.recipe import OrganismRecipe

MASKED_PLACES = 1500
"""Masked places of the perplexity in the ready recipe."""


def perplexity_settings(folder: Path) -> dict[str, Any]:
    """Settings of the benchmark ``perplexity`` that measure an organism on its own text, sentence by sentence."""
    return {"source": str(folder.resolve() / "text.txt"), "lines": True, "positions": MASKED_PLACES}


def training_source_fields(folder: Path) -> dict[str, Any]:
    """The field ``train`` of a recipe: the organism's stereotypes with their counterparts."""
    columns = {name: name for name in ("text", "counterpart", "group", "cluster")}
    return {"source": str(folder.resolve() / "forget.jsonl"), "columns": columns}


def debias_recipe(recipe: OrganismRecipe, folder: Path) -> str:
    """A recipe of ``fairforget debias`` for an organism, as YAML; paths are absolute, so that it runs from anywhere."""
    values = {
        "model": str(folder.resolve() / "model"),
        "method": {"name": "task-vector", "tuning": "full", "learning_rate": 1e-3, "steps": 60, "batch_size": 32},
        "train": training_source_fields(folder),
        "benchmarks": [
            {"name": "organism", "settings": {"folder": str(folder.resolve())}},
            {"name": "perplexity", "settings": perplexity_settings(folder)},
        ],
        "target": "organism:margin",
        "budget": {"perplexity": "5%"},
        "seed": recipe.seed,
    }
    head = (
        "# Debias this organism, measured against its known truth. Another method: --method NAME; one domain alone: --train "
        "forget/DOMAIN.jsonl.\n"
        f"#\n#   fairforget debias --recipe {folder / 'debias.yaml'} --out runs/{folder.resolve().name}\n\n"
    )
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def readme(recipe: OrganismRecipe, domains: pl.DataFrame, ability: Mapping[str, float], folder: Path) -> str:
    """The folder's README: what lies where, and how well the model took up what was planted.

    Args:
        recipe: of the organism.
        domains: planted and recovered log-odds by domain.
        ability: accuracies and perplexity.
        folder: of the organism.
    """
    rows = [
        f"| {row['task']} | {row['domain']} | {row['strength']:.2f} | {row['planted']:.3f} | {row['recovered']:.3f} | "
        f"{row['mean_absolute_error']:.3f} | {row['largest_error']:.3f} |"
        for row in domains.iter_rows(named=True)
    ]
    figures = [f"| {name} | {value:.3f} |" for name, value in ability.items()]
    return "\n".join([
        f"# A model organism ({recipe.family}, {recipe.size}, seed {recipe.seed})",
        "",
        "A small transformer trained by fairforget on a generated language in which every stereotype and fact was planted with a known",
        "strength. For testing methods and metrics; its associations are invented and say nothing about any group.",
        "",
        "| file | what it is |",
        "| --- | --- |",
        "| `model/` | the model, loads with `fairforget.load` and plain transformers |",
        "| `truth.parquet` | what was planted: strength, log-odds, how often it was told |",
        "| `calibration.parquet` | what came back, by target |",
        "| `items.parquet` | items of the benchmark `organism`: parts train, select, test |",
        "| `forget.jsonl`, `forget/DOMAIN.jsonl` | stereotypes with counterparts, in templates that are neither in select nor in test |",
        "| `retain.txt` | plain sentences, one a line, e.g. for `method.retain_text` |",
        "| `text.txt` | running text for `perplexity` (with `lines: true`) |",
        "| `debias.yaml` | a recipe that runs as it is |",
        "| `study.yaml` | a study of every method on this organism |",
        "| `words.json`, `lexicon.txt`, `targets.txt`, `prompts.txt` | lists for methods that need some |",
        "| `organism.yaml`, `organism.json` | the recipe; hashes, training and calibration |",
        "",
        f"    fairforget debias --recipe {folder / 'debias.yaml'} --out runs/{folder.resolve().name}",
        "",
        "Planted and recovered log-odds (nats), means over targets; `paraphrase` is in templates that the model has never seen.",
        "",
        "| task | domain | strength | planted | recovered | mean absolute error | largest error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "| figure | value |",
        "| --- | --- |",
        *figures,
        "",
    ])
