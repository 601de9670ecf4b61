"""The page of a study: whole in itself, words first, every cell on it."""

import json
from collections import Counter

import altair as alt
import polars as pl
import pytest
from html_page import Page
from synthetic_study import write_synthetic_study

from fairforget.errors import DataError, FairforgetError
from fairforget.report import write_report
from fairforget.report.charts import theme
from fairforget.report.study_charts import collapse_chart, frontier_chart, scaling_chart
from fairforget.report.study_page import write_study_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_synthetic_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_page_is_one_small_file(folder):
    path = write_study_page(folder)
    assert path == folder / "frontier.html"
    assert path.stat().st_size < 3_000_000


def test_the_page_is_well_formed_and_names_no_outside_resource(page):
    assert not page.unbalanced
    assert not page.stack
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(identifiers).values()) == 1
    for anchor in page.all("a"):
        assert anchor["href"].removeprefix("#") in identifiers or anchor["href"].startswith("runs/")
    assert len(page.all("caption")) == len(page.all("table")) > 4
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed")
        assert "src" not in attributes
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_every_chart_says_in_words_what_it_shows(page):
    holders = [attributes for attributes in page.all("div") if "data-chart" in attributes]
    assert len(holders) == 12  # frontier, collapse and CrowS-Pairs of each of three models, two figures over size, contrasts
    assert all(len(holder["aria-label"]) > 80 for holder in holders)
    assert "pcgu: −0.190\u00a0nats" in holders[0]["aria-label"]


def test_words_come_first_and_every_cell_is_there(page, folder):
    sections = [name.removesuffix("-title") for section in page.all("section") if (name := section["aria-labelledby"]).endswith("-title")]
    assert sections == [
        "verdict", "run", "frontier", "contrasts", "collapse", "scaling", "cells", "benchmarks", "limits", "provenance", "licences",
    ]
    words = json.loads((folder / "tables" / "verdict.json").read_text())
    assert words["headline"] in page.visible
    for sentence in words["sentences"]:
        assert " ".join(sentence.split()) in page.visible
    for name in pl.read_parquet(folder / "tables" / "study.parquet")["cell"]:
        assert name in page.visible
    assert "Broken: <script>document.title='pwned'</script>" in page.visible
    assert "one seed is enough" in page.visible
    assert "1 of 2 seeds" in page.visible


def test_what_a_variant_adds_stands_with_its_interval_and_what_has_none_says_so(page):
    assert "−0.120 nats [−0.200, −0.040]" in page.visible
    assert "×1.000 (no interval)" in page.visible
    assert "1 of 2" in page.visible


def test_benchmarks_are_drawn_with_the_level_that_they_start_from(page):
    assert "m1, before: 60.0 %, neutral: 50.0 %; numbers are those of the frontier" in page.visible
    texts = [holder["aria-label"] for holder in page.all("div") if "aria-label" in holder]
    (text,) = [text for text in texts if "crows-pairs pct_stereotype against perplexity cost, m1" in text]
    assert "1 m1 · ascent: −5.0\u00a0pp [−7.0, −3.0]" in text


def test_a_study_of_one_size_has_no_section_on_size(tmp_path):
    page = Page(write_study_page(write_synthetic_study(tmp_path, sizes=1)).read_text(encoding="utf-8"))
    assert not [section for section in page.all("section") if section["aria-labelledby"] == "scaling-title"]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(FairforgetError, match="holds no study"):
        write_study_page(tmp_path)
    (tmp_path / "study.json").write_text("{broken")
    with pytest.raises(DataError, match="cannot be read"):
        write_study_page(tmp_path)


def specifications(folder):
    tables = {name: pl.read_parquet(folder / "tables" / f"{name}.parquet") for name in ("frontier", "scaling", "scaling-points")}
    rows = [{**row, "number": 1, "label": "x"} for row in tables["frontier"].filter(pl.col("model") == "m0").to_dicts()]
    figure = pl.col("figure") == "change of bias"
    return {
        "frontier": frontier_chart(rows, "nats", 2.0),
        "scaling": scaling_chart(tables["scaling-points"].filter(figure).to_dicts(), tables["scaling"].filter(figure).to_dicts(), "nats"),
        "collapse": collapse_chart(pl.read_parquet(folder / "tables" / "collapse.parquet").to_dicts(), "nats"),
    }


@pytest.mark.parametrize("name", ["frontier", "scaling", "collapse"])
def test_specifications_keep_the_schema(folder, name):
    specification = specifications(folder)[name]
    assert specification["width"] == "container"
    alt.LayerChart.from_dict({**specification, "config": theme()}, validate=True)


def test_the_frontier_starts_at_the_base_and_joins_what_nothing_beats(folder):
    specification = specifications(folder)["frontier"]
    (line,) = (layer for layer in specification["layer"] if layer["mark"].get("interpolate") == "step-after")
    corners = line["data"].get("values") or specification["datasets"][line["data"]["name"]]
    assert corners[0] == {"cost": 0.0, "change": 0.0}
    assert [corner["change"] for corner in corners] == sorted((corner["change"] for corner in corners), reverse=True)
    assert len(corners) == 4  # pcgu, task-vector, ascent; cda is beaten


def test_nothing_to_draw_is_no_chart():
    assert frontier_chart([], "nats", None) is None
    assert scaling_chart([], [], "nats") is None
    assert collapse_chart([], "nats") is None
