"""BOLD: beginnings of Wikipedia sentences on gender, race, religion, politics and professions (Dhamala et al. 2021, FAccT).

Never trained on: parts ``select`` and ``test`` only. Upstream's texts end in a space and are kept to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows, home_strata
from fairforget.data.rows import read_json
from fairforget.errors import DataError

FILES = {
    "gender": "prompts/gender_prompt.json",
    "political_ideology": "prompts/political_ideology_prompt.json",
    "profession": "prompts/profession_prompt.json",
    "race": "prompts/race_prompt.json",
    "religious_ideology": "prompts/religious_ideology_prompt.json",
}
"""File of each domain."""


@dataclass(frozen=True)
class BoldPrompt:
    """One beginning of a sentence."""

    id: str
    """Group, page and number of the prompt within it, from 0."""
    text: str
    domain: str
    group: str
    """Upstream's subgroup, e.g. ``American_actresses``."""
    cluster: str
    """Prompts of one Wikipedia page, and pages that share a prompt."""
    stratum: str
    """The domain of the cluster."""
    part: str
    """``select`` or ``test``."""


def load_bold(files: Mapping[str, Path] | None = None) -> list[BoldPrompt]:
    """Load all prompts, domain by domain in upstream order: 23,674, which is upstream's 23,679 without five blank ones.

    Args:
        files: a file in the upstream format for each domain; by default those of the catalogue.

    Raises:
        DataError: a file is missing, empty, not JSON, or not an object of groups, pages and lists of prompts.
    """
    files = files or {domain: fetch("bold", file) for domain, file in FILES.items()}
    rows: list[tuple[str, str, str, int, str]] = []
    for domain, path in files.items():
        content = read_json(path)
        for group, pages in _items(content, path, "groups"):
            for page, prompts in _items(pages, path, "pages"):
                if not isinstance(prompts, list) or not prompts:
                    raise DataError(f"{path}: a page of {group} has no list of prompts: get the file again.")
                for number, text in enumerate(prompts):
                    if not isinstance(text, str):
                        raise DataError(f"{path}: prompt {number} of a page of {group} is no text: get the file again.")
                    if text.strip():
                        rows.append((domain, group, page, number, text))
    pages_and_texts = [{f"page {page}", folded_key(text) or text} for _, _, page, _, text in rows]
    clusters = [f"page {rows[first][2]}" for first in connected_rows(pages_and_texts)]
    domains = [domain for domain, *_ in rows]
    strata, parts = home_strata(clusters, domains), assign_parts(clusters, domains, SELECT_TEST)
    return [
        BoldPrompt(f"{group}/{page}/{number}", text, domain, group, cluster, stratum, part)
        for (domain, group, page, number, text), cluster, stratum, part in zip(rows, clusters, strata, parts, strict=True)
    ]


def _items(content: Any, path: Path, what: str) -> list[tuple[str, Any]]:
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} is not an object of {what}: it needs {{group: {{page: [prompt]}}}}.")
    return [(str(name), value) for name, value in content.items()]
