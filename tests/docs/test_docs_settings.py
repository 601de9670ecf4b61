"""Every method and benchmark has a page, and its settings table is the settings class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fairforget.benchmarks import registry
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.methods import method_registry
from fairforget.methods._trained import TrainedMethod, TrainedSettings
from fairforget.settings import Settings, describe_fields
from fairforget.workflows.curvature import CurvatureSettings

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMPARED = ("name", "type", "default", "range")


def settings_table(page: str) -> list[dict[str, str]]:
    """Rows of the one table of a page whose first column is ``setting``."""
    found: list[dict[str, str]] = []
    for table in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
        if rows[0][0] == "setting":
            assert rows[0][:4] == ["setting", "type", "default", "range"]
            found += [{name: cell.strip("`") for name, cell in zip(COMPARED, row, strict=False)} for row in rows[2:]]
            assert all(len(row) == len(rows[0]) and all(row[:3]) and all(row[4:]) for row in rows[2:]), "a cell is empty"
    return found


def described(kind: type[Settings]) -> list[dict[str, str]]:
    return [{name: row[name] for name in COMPARED} for row in describe_fields(kind)]


@pytest.mark.parametrize("name", method_registry().names())
def test_the_page_of_a_method_lists_its_settings(name: str) -> None:
    method: Any = method_registry().get(name)
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    # What every method that trains shares is on a page of its own.
    shared = described(TrainedSettings) if issubclass(method, TrainedMethod) else []
    own = [row for row in described(method.settings_class) if row not in shared]
    assert [row for row in settings_table(page) if row not in shared] == own
    for heading in ("## Formula", "## Known traps", "## When not to use it"):
        assert heading in page
    assert "**Source.**" in page


def test_the_page_of_training_lists_the_shared_settings() -> None:
    assert settings_table((DOCS / "training.md").read_text(encoding="utf-8")) == described(TrainedSettings)


def test_the_page_of_protocols_lists_the_shared_settings() -> None:
    assert settings_table((DOCS / "protocols.md").read_text(encoding="utf-8")) == described(SubsetSettings)


def test_the_page_of_curvature_lists_its_settings() -> None:
    assert settings_table((DOCS / "curvature.md").read_text(encoding="utf-8")) == described(CurvatureSettings)


@pytest.mark.parametrize("name", registry.names())
def test_the_page_of_a_benchmark_lists_its_settings_and_presets(name: str) -> None:
    benchmark = registry.get(name)
    page = (DOCS / "benchmarks" / f"{name}.md").read_text(encoding="utf-8")
    # What every benchmark of many items shares is on a page of its own.
    shared = described(SubsetSettings) if issubclass(benchmark.Settings, SubsetSettings) else []
    assert settings_table(page) == [row for row in described(benchmark.Settings) if row not in shared]
    assert [preset for preset in benchmark.presets if f"`{preset}`" not in page] == []
    assert "## Known traps" in page


def test_a_table_that_differs_is_seen() -> None:
    page = "| setting | type | default | range | what |\n| --- | --- | --- | --- | --- |\n| `a` | `int \\| None` | `1` | | text |\n"
    assert settings_table(page) == [{"name": "a", "type": "int | None", "default": "1", "range": ""}]
