"""Suites: named lists of benchmarks for each model family, in ``suites.yaml`` beside this module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from fairforget.errors import unknown_name

FAMILIES = ("causal", "masked")


@dataclass(frozen=True)
class Suite:
    """A named list of benchmarks.

    Attributes:
        name: as written after ``--benchmarks``.
        description: what it is for, in a sentence.
        entries: for each family, names (with presets) and settings in the order in which they are measured.
    """

    name: str
    description: str
    entries: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]]

    def of(self, family: str | None) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The benchmarks for a family; of a family that is not known yet, those of both, each name once.

        Args:
            family: ``causal``, ``masked`` or None.
        """
        if family is not None:
            return self.entries[family]
        found: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for own in FAMILIES:
            for name, settings in self.entries[own]:
                found.setdefault(name.partition(":")[0], (name, settings))
        return tuple(found.values())


def suite_names() -> list[str]:
    """Names of all suites, the smallest first."""
    return list(_suites())


def get_suite(name: str) -> Suite:
    """A suite by name.

    Raises:
        UsageError: there is none of this name.
    """
    suites = _suites()
    if name not in suites:
        raise unknown_name("suite", name, suites)
    return suites[name]


@cache
def _suites() -> dict[str, Suite]:
    text = resources.files("fairforget.benchmarks").joinpath("suites.yaml").read_text(encoding="utf-8")
    return {
        name: Suite(name, values["description"], {family: tuple(_entry(entry) for entry in values[family]) for family in FAMILIES})
        for name, values in yaml.safe_load(text).items()
    }


def _entry(entry: str | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return (entry, {}) if isinstance(entry, str) else (entry["name"], entry.get("settings", {}))
