"""A run's folder: one process at a time, one recipe for its life, results that are whole or absent, and the record of how they came."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark
from fairforget.data.catalogue import get_dataset
from fairforget.errors import UsageError
from fairforget.files import folder_lock, write_json, write_text
from fairforget.models import Model, builtin_models
from fairforget.tables import read_table, write_table

RECORDED_PACKAGES = ("fairforget", "torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "scipy", "scikit-learn", "polars")


STARTER_FACTS: dict[str, Any] = {
    "name": "starter",
    "licence": "Apache-2.0",
    "citation": "Written for fairforget and shipped with it.",
    "content_warning": False,
    "sha256": None,
}


class RunFolder:
    """Paths and records of one run.

    Args:
        path: the folder; made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables = path / "tables"
        self.edit = path / "edit"
        self.model = path / "model"
        self.work = path / "work"
        self.recipe = path / "recipe.yaml"
        self.record = path / "run.json"
        self._start = time.time()

    @contextlib.contextmanager
    def opened(self, recipe: str, same: Callable[[Path], bool] = lambda _: False) -> Generator[None]:
        """Hold the folder for this run.

        Args:
            recipe: the resolved recipe as text; a folder keeps to the one with which its first result was made.
            same: whether the recipe in a file of another text is this one all the same: an earlier version wrote fewer fields.

        Raises:
            UsageError: the folder holds a run of another recipe, or files of something else.
            FairforgetError: another process uses the folder, or it cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file: choose another folder with --out.")
        if self.path.is_dir() and not self.recipe.exists() and any(
            entry.name != ".lock" and not _is_leftover(entry) for entry in self.path.iterdir()
        ):
            raise UsageError(f"The folder {self.path} holds other files: choose an empty or a new folder with --out.")
        with folder_lock(self.path):
            begun = any(entry.name not in (".lock", self.recipe.name) and not _is_leftover(entry) for entry in self.path.iterdir())
            if begun and self.recipe.exists() and self.recipe.read_text(encoding="utf-8") != recipe and not same(self.recipe):
                raise UsageError(
                    f"The folder {self.path} holds a run of another recipe ({self.recipe}): choose another folder with --out, "
                    "or remove it to start anew."
                )
            for path in [entry for entry in self.path.rglob(".*") if _is_leftover(entry)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            write_text(self.recipe, recipe)
            yield

    def finished(self) -> bool:
        """Whether the run in this folder came to its end."""
        return self.record.exists() and bool(read_json(self.record).get("finished"))

    def write_items(self, state: str, part: str, tables: Sequence[pl.DataFrame]) -> None:
        """Keep the item tables of all benchmarks for one state and part in one file."""
        write_table(pl.concat(tables), self.tables / f"items-{state}-{part}.parquet")

    def read_items(self, state: str, part: str) -> pl.DataFrame:
        """The item tables of one state and part."""
        return read_table(self.tables / f"items-{state}-{part}.parquet", ("benchmark", "task", "item"))

    def write_record(self, record: dict[str, Any]) -> None:
        """Write run.json, with the facts that every run shares."""
        facts = {
            **record,
            "versions": versions(),
            "git": git_state(),
            "command": " ".join(sys.argv) if sys.argv and sys.argv[0] else "python",
            "started": dt.datetime.fromtimestamp(self._start, dt.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self._start, 1),
            "finished": True,
        }
        write_json(self.record, facts)


def _is_leftover(path: Path) -> bool:
    """Whether this is what a killed process was still writing."""
    return path.name.startswith(".") and path.suffix in (".part", ".old")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that this package wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the packages that figures depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_state() -> dict[str, Any]:
    """Commit of the working folder and whether it was changed since; empty outside a repository."""
    def ask(*arguments: str) -> str | None:
        try:
            result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603, S607
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return {} if commit is None else {"commit": commit, "changed": bool(ask("status", "--porcelain"))}


def model_facts(model: Model) -> dict[str, Any]:
    """What run.json says of the model."""
    builtin = next((known for known in builtin_models() if known.name == model.source), None)
    return {
        "name": model.name,
        "source": model.source,
        "hub_id": builtin.hub if builtin else None,
        "license": builtin.licence.lower() if builtin else None,  # as the hub spells it
        "revision": model.revision,
        "family": model.family,
        "base_hash": model.base_hash,
        "parameters": model.parameter_count,
        "dtype": str(model.dtype).removeprefix("torch."),
        "scoring": "bfloat16, close items in float32" if model.bfloat16_scoring else str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": model.attention_kernel,
        "prefix": model.prefix_policy,
        "tokenizer_hash": model.tokenizer_hash,
        "template_hash": model.template_hash,
        "notes": model.notes,
    }


def benchmark_facts(benchmarks: Sequence[Benchmark], tables: Sequence[pl.DataFrame]) -> list[dict[str, Any]]:
    """What run.json says of the benchmarks; enough to evaluate the tables again without a model."""
    return [
        {
            "name": benchmark.name,
            "protocol": "; ".join(table["protocol"].unique(maintain_order=True).to_list()),
            "settings": benchmark.settings.model_dump(mode="json"),
            "datasets": list(benchmark.datasets),
            "description": benchmark.description,
            "caution": benchmark.caution,
        }
        for benchmark, table in zip(benchmarks, tables, strict=True)
    ]


def dataset_facts(names: Sequence[str]) -> list[dict[str, Any]]:
    """Licence, citation, warning and hashes of the datasets behind a run."""
    facts: list[dict[str, Any]] = []
    for name in dict.fromkeys(names):
        if name == "starter":
            facts.append(STARTER_FACTS)
            continue
        facts.append(get_dataset(name).record())
    return facts
