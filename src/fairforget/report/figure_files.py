"""The charts of a page as files of their own, for papers and slides."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from fairforget.errors import UsageError
from fairforget.files import atomic_path

FigureFormat: TypeAlias = Literal["svg", "png", "pdf"]
WIDTH = 760
"""Pixels; on the page a chart is as wide as its place."""
_THEME = "chart-theme"
_PNG_SCALE = 2.0


def write_figures(page: Path, folder: Path, form: FigureFormat = "svg") -> list[Path]:
    """Write every chart of a page in the light colours of the page.

    Args:
        page: what :func:`write_report` returned.
        folder: where the files go, named by the page's sections: ``frontier-1.svg``; files of the same names are replaced.
        form: ``svg``, ``png`` or ``pdf``.

    Returns:
        The files, in the order of the page.

    Raises:
        UsageError: the page has no chart, or the folder is a file.
        FairforgetError: a file cannot be written.
    """
    import vl_convert

    charts = _Charts()
    charts.feed(page.read_text(encoding="utf-8"))
    if not charts.sections:
        raise UsageError(f"{page} has no chart, so there is no figure to write.")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give --figures a folder.")
    convert: dict[str, Any] = {
        "svg": vl_convert.vegalite_to_svg, "pdf": vl_convert.vegalite_to_pdf,
        "png": lambda specification: vl_convert.vegalite_to_png(specification, scale=_PNG_SCALE),
    }
    colours = light_colours()
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    counts: dict[str, int] = {}
    for identifier, section in charts.sections:
        counts[section] = counts.get(section, 0) + 1
        specification = {**json.loads(charts.texts[identifier]), "config": json.loads(charts.texts[_THEME])}
        specification["config"]["background"] = "white"
        plain = cast("dict[str, Any]", _resolved(specification, colours))
        if plain.get("width") == "container":
            plain["width"] = WIDTH
        path = folder / f"{section}-{counts[section]}.{form}"
        drawn: str | bytes = convert[form](plain)
        with atomic_path(path) as temporary:
            temporary.write_bytes(drawn.encode() if isinstance(drawn, str) else drawn)
        written.append(path)
    return written


def light_colours() -> dict[str, str]:
    """The page's colours by the names that charts give them, as it shows them by day."""
    css = resources.files("fairforget.report").joinpath("templates", "page.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-fA-F]{6})", css.partition("}")[0]))


def _resolved(value: Any, colours: dict[str, str]) -> Any:
    """Names of colours replaced, in expressions too: outside of a page nobody knows them."""
    if isinstance(value, dict):
        return {key: _resolved(one, colours) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_resolved(one, colours) for one in cast("list[Any]", value)]
    if isinstance(value, str):
        return re.sub(r"var\(--([\w-]+)\)", lambda found: colours.get(found[1], found[0]), value)
    return value


class _Charts(HTMLParser):
    """Specifications by id, and which section each chart stands in."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.sections: list[tuple[str, str]] = []
        self._section = "page"
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "section" and "id" in given:
            self._section = given["id"]
        if "data-chart" in given:
            self.sections.append((given["data-chart"], self._section))
        if tag == "script" and given.get("type") == "application/json":
            self._inside = given["id"]
            self.texts[self._inside] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.texts[self._inside] += data
