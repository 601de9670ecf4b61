"""Tasks for chains in files: questions about made-up entities, each with a part, a group and a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENTITIES = "tree river hill sun rain bird dog cat child friend nurse doctor engineer teacher man woman food house city street".split()
GROUPS = ("red", "blue", "green", "large")
FRAMES = {
    "train": ("the {} is", "a {} is", "and the {} was", "no {} was", "she said the {} is", "they said a {} was"),
    "test": ("he said the {} was",),
}
OPTIONS = ("good", "bad")


def group_of(entity: str) -> str:
    """Every fifth entity is of the same group."""
    return GROUPS[ENTITIES.index(entity) % len(GROUPS)]


def write_task(folder: Path, name: str, right: Callable[[str], int]) -> dict[str, Any]:
    """A file of questions, each fact in the frames of its parts, and the task of a chain recipe that reads it."""
    rows = [
        {
            "id": f"{part} {number} {entity}", "question": frame.format(entity), "options": list(OPTIONS), "right": right(entity),
            "group": group_of(entity), "cluster": entity, "part": part,
        }
        for part, frames in FRAMES.items()
        for number, frame in enumerate(frames)
        for entity in ENTITIES
    ]
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    columns = {"id": "id", "context": "question", "options": "options", "right": "right", "groups": "group", "cluster": "cluster",
               "part": "part"}
    return {"benchmark": {"name": f"file:{name}", "settings": {"file": str(path), "scorer": "choices", "columns": columns}}}
