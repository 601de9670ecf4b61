"""The target's items in other words: those that the benchmark holds out, frames round its texts, or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fairforget.benchmarks import Benchmark, Item
from fairforget.benchmarks._pairs import PairBenchmark
from fairforget.benchmarks.stereoset import INTERSENTENCE, StereoSet
from fairforget.data.user_files import load_user_rows
from fairforget.errors import DataError, UsageError
from fairforget.files import sha256_file
from fairforget.models.model import Model

FRAMES = (
    "Somebody said: {}",
    "Here is what I heard: {}",
    "On the first page it read: {}",
    "A letter began like this: {}",
    "The radio said it in the morning. {}",
)
"""Written for this package: they name no group and say nothing about what follows."""

HELD_OUT = "paraphrase"
"""Preset of a benchmark that has paraphrases of its own; their tasks end in this word."""

USER_COLUMNS = {"item": "item", "stereotype": "stereotype", "anti": "anti"}
"""Roles and columns of a user's file of paraphrases."""


def rewording_of(benchmark: Benchmark, file: Path | None) -> str:
    """What is measured in place of the items, in words, for records and tables.

    Raises:
        UsageError: there is no other wording of this benchmark's items.
    """
    if file is not None:
        if not isinstance(benchmark, PairBenchmark):
            raise UsageError(f"A file of paraphrases holds pairs of sentences, and the items of {benchmark.name} are none.")
        if not file.is_file():
            raise UsageError(f"There is no file of paraphrases {file}.")
        return f"paraphrases of {file.name}, sha256 {sha256_file(file)[:16]}"
    if HELD_OUT in benchmark.presets:
        return "held-out paraphrases of the benchmark"
    if isinstance(benchmark, PairBenchmark | StereoSet):
        return f"texts in one of {len(FRAMES)} frames"
    raise UsageError(f"The items of {benchmark.name} have no paraphrases and cannot be put into frames: use --no-paraphrase.")


def reworded(benchmark: Benchmark, model: Model, file: Path | None = None) -> tuple[Benchmark, list[Item]]:
    """The items of the `test` part in other words, and the benchmark that scores them.

    Args:
        benchmark: the target.
        model: for its family, and for benchmarks that lie beside a model.
        file: a user's paraphrases, with the columns ``item`` (the id of an item of the `test` part), ``stereotype`` and ``anti``.

    Raises:
        UsageError: there is no other wording of this benchmark's items.
        DataError: the file is damaged, or names an item that there is not.
    """
    rewording_of(benchmark, file)
    benchmark.check(model)
    if file is not None:
        return benchmark, _from_file(file, benchmark.measured_items(model.family, "test"))
    if HELD_OUT in benchmark.presets:
        values = {**benchmark.settings.model_dump(), **benchmark.presets[HELD_OUT]}
        twin = type(benchmark)(benchmark.Settings.model_validate(values))
        twin.check(model)
        items = [item for item in twin.measured_items(model.family, "test") if item.task.endswith(HELD_OUT)]
        if not items:
            raise DataError(f"The benchmark {benchmark.name} holds out no paraphrases in its test part.")
        return twin, items
    return benchmark, [framed(item) for item in benchmark.measured_items(model.family, "test") if item.role == "bias"]


def framed(item: Item) -> Item:
    """An item with its texts in a frame, which its id chooses; a text that follows a context gets the frame before the context."""
    number = int.from_bytes(hashlib.sha256(f"{item.task} {item.id}".encode()).digest()[:4], "big") % len(FRAMES)
    frame = FRAMES[number]
    payload = dict(item.payload)
    if "context" in payload:
        payload["context"] = frame.format(payload["context"])
    texts = item.texts if item.task == INTERSENTENCE else tuple(frame.format(text) for text in item.texts)
    return replace(item, id=f"{item.id} in frame {number + 1}", texts=texts, payload=payload)


def _from_file(file: Path, items: Sequence[Item]) -> list[Item]:
    by_id = {item.id: item for item in items}
    found: list[Item] = []
    for number, row in enumerate(load_user_rows(file, USER_COLUMNS), start=1):
        name = str(row["item"])
        if name not in by_id:
            raise DataError(f"{file} row {number}: the test part of the target has no item '{name}'.")
        found.append(replace(by_id[name], id=f"{name} in row {number}", texts=(str(row["stereotype"]), str(row["anti"]))))
    return found
