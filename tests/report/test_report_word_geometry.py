"""The section of word geometry on the page of a run."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl
from html_page import Page
from synthetic_run import HOSTILE_TEXT, write_synthetic_run

from fairforget.report import write_report
from fairforget.report.word_geometry import cosine_chart, means_chart
from fairforget.tables import item_table

WORDS = [("he", "male", 0.5), ("she", "female", 0.1), (HOSTILE_TEXT, "female", -0.3)]


def add_words(folder: Path) -> None:
    for state, shift in (("base", 0.0), ("edited", 0.2)):
        path = folder / "tables" / f"items-{state}-test.parquet"
        table = pl.read_parquet(path)
        rows = [
            {
                "benchmark": "geometry", "protocol": "next", "task": f"geometry-{name}-words", "role": "ability", "part": "test",
                "item": str(number), "cluster": str(number),
                "stratum": "words", "groups": [group] if name == "gender" else [], "texts": [word],
                "scores": [cosine + shift, 1.0 * number, -1.0, 12.0], "prefix": "id 0", "prompt_format": "plain",
            }
            for name in ("gender", "random") for number, (word, group, cosine) in enumerate(WORDS)
        ]
        dropped = rows[0] | {"item": "dropped: rare", "scores": None, "skipped": "3 words dropped: rare"}
        pl.concat([table, item_table([*rows, dropped])]).write_parquet(path)


def test_the_page_shows_every_word_before_and_after(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path, items=40)
    plain = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "#geometry" not in [anchor["href"] for anchor in plain.all("a")]
    add_words(folder)
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.unbalanced and not page.stack
    assert "#geometry" in [anchor["href"] for anchor in page.all("a")]
    charts = [div["aria-label"] for div in page.all("div") if "class means of 3 words" in div.get("aria-label", "")]
    assert len(charts) == 2  # before and after, of the set with groups alone
    assert "gender before: mean 0.1, spread 0.4" in text
    assert "gender after: mean 0.3, spread 0.4" in text
    assert HOSTILE_TEXT not in text
    assert "dropped: rare" not in text


def test_charts_are_valid() -> None:
    words = [
        {"set": "gender", "state": state, "word": word, "group": group, "cosine": cosine, "x": cosine, "y": 1.0, "states": 3.0}
        for state in ("before", "after") for word, group, cosine in WORDS
    ]
    for specification in (cosine_chart(words, ["gender"], ["before", "after"]), means_chart(words, "gender, before")):
        assert specification is not None
        alt.LayerChart.from_dict(specification)
        assert specification["width"] == "container"
    assert cosine_chart([], [], []) is None
    assert means_chart([], "") is None
