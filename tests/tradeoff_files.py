"""A trade-off study small enough for tests: an organism's items, texts and a tiny masked model, and what is measured on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
from tiny import tiny_model

from fairforget.benchmarks.organism import ITEMS_FILE, ORGANISM_ITEMS

PLACES = ("home", "city", "street", "river", "hill", "tree")
COLOURS = ("red", "green", "blue")


def write_tiny_organism(folder: Path, kind: str = "bert") -> Path:
    """Items, texts to be trained on, running text and a model."""
    folder.mkdir(parents=True, exist_ok=True)
    items: list[dict[str, Any]] = [
        {
            "item": f"bias {place} {number}", "task": "bias", "part": "test", "cluster": place, "stratum": "gender", "groups": ["women"],
            "texts": [f"the {job} at {place} said that {word} is good" for word in ("she", "he")], "target": job, "first": "she",
        }
        for place in PLACES for number, job in enumerate(("nurse", "teacher"))
    ] + [
        {
            "item": f"fact {place} {part}", "task": "facts", "part": part, "cluster": place, "stratum": "city", "groups": ["city"],
            "texts": [f"the {place} is {value} now" for value in (colour, *[other for other in COLOURS if other != colour])],
            "target": place, "first": colour,
        }
        for number, place in enumerate(PLACES)
        for part, colour in (("select" if number % 2 else "test", COLOURS[number % 3]),)
    ] + [
        {
            "item": f"verb {place}", "task": "agreement", "part": part, "cluster": place, "stratum": "agreement", "groups": ["singular"],
            "texts": [f"the {place} {verb} old" for verb in ("is", "are")], "target": None, "first": None,
        }
        for number, place in enumerate(PLACES)
        for part in ("select" if number % 2 else "test",)
    ]
    pl.DataFrame(items, schema=ORGANISM_ITEMS).write_parquet(folder / ITEMS_FILE)
    rows = [
        {"text": f"the {job} by the {place} said {word} works", "counterpart": f"the {job} by the {place} said {other} works",
         "cluster": job}
        for job, word, other in (("doctor", "he", "she"), ("engineer", "he", "she"), ("child", "she", "he")) for place in PLACES
    ]
    (folder / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    lines = [f"{first} {place} {second}" for place in PLACES for first, second in (("a", "by the dog"), ("the man at the", "is old"))]
    passage = "\n".join(lines * 5)  # over 300 words, so that each is a passage of its own
    passages = [passage, passage.replace("dog", "cat"), passage.replace("old", "new")] * 2
    (folder / "text.txt").write_text("\n\n".join(passages), encoding="utf-8")
    tiny_model(kind).save(folder / "model")
    return folder


def tiny_tradeoff(folder: Path, **fields: Any) -> dict[str, Any]:
    """Fields of the study; with no others two arms, one size and one seed of three checkpoints."""
    text = {"source": str(folder / "text.txt"), "lines": True, "positions": 24}
    return {
        "models": [{"name": "tiny", "ref": str(folder / "model")}],
        "train": {"source": str(folder / "forget.jsonl"), "columns": {"text": "text", "counterpart": "counterpart", "cluster": "cluster"}},
        "arms": ["cda0", "cda2"],
        "method": {"tuning": "full", "learning_rate": 0.003, "batch_size": 4, "warmup_share": 0.0, "precision": "float32"},
        "sizes": [6],
        "seeds": [0],
        "steps": 4,
        "checkpoints": [2, 4],
        "bias": [{"name": "organism:bias", "settings": {"folder": str(folder)}}],
        "general": {"name": "perplexity", "settings": text},
        "neutral": {"name": "perplexity", "settings": text},
        "neutral_part": "select",
        "strata": {"target": ["gender"], "other": ["religion"]},
        "downstream": [{"name": "organism-fine-tune", "settings": {"folder": str(folder), "tasks": ["grammar"], "epochs": 1}}],
        "drift_positions": 10,
        "resamples": 200,
        **fields,
    }
