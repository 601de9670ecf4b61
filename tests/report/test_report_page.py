import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import polars as pl
import pytest
from html_page import Page
from synthetic_run import HEADLINE, LIMITS, SENTENCES, write_synthetic_run

from fairforget.errors import DataError, FairforgetError
from fairforget.report import model_card, write_report
from fairforget.report.page import CHART_ROWS, PAGE_CHARTS


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_synthetic_run(tmp_path_factory.mktemp(kind), kind) for kind in ("debias", "audit", "compare")}


@pytest.fixture(scope="module")
def pages(folders):
    return {kind: Page(write_report(folder).read_text(encoding="utf-8")) for kind, folder in folders.items()}


@pytest.fixture
def debias(tmp_path):
    return write_synthetic_run(tmp_path, items=40)


def rewrite(path, **columns):
    pl.read_parquet(path).with_columns(**columns).write_parquet(path)


def test_page_lies_in_the_run_folder_and_is_small(folders):
    page = write_report(folders["debias"])
    assert page == folders["debias"] / "report.html"
    assert page.stat().st_size < 3_000_000


@pytest.mark.parametrize("kind", ["debias", "audit", "compare"])
def test_page_is_well_formed_and_accessible(pages, kind):
    page = pages[kind]
    assert not page.unbalanced and not page.stack
    assert page.all("html") == [{"lang": "en"}]
    assert [len(page.all(tag)) for tag in ("main", "nav", "header", "footer", "h1")] == [1, 1, 1, 1, 1]
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(identifiers).values()) == 1
    for anchor in page.all("a"):
        assert anchor["href"].removeprefix("#") in identifiers
    for _, attributes in page.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in identifiers
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("kind", ["debias", "audit", "compare"])
def test_every_chart_has_a_specification_and_a_text_alternative(pages, kind):
    page = pages[kind]
    holders = [attributes for attributes in page.all("div") if "data-chart" in attributes]
    scripts = [attributes.get("id") for attributes in page.all("script")]
    assert len(holders) >= 4
    for holder in holders:
        assert holder["role"] == "img" and len(holder["aria-label"]) > 60
        assert holder["data-chart"] in scripts
    specifications = [json.loads(data) for tag, data in page.texts if tag == "script" and data.startswith("{")]
    assert len(specifications) == len(holders) + 1  # and the theme


@pytest.mark.parametrize("kind", ["debias", "audit", "compare"])
def test_page_names_no_outside_resource(pages, kind):
    page = pages[kind]
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed")
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "script-src 'sha256-" in policy
    style = next(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style and "@import" not in style


def test_sections_follow_the_kind_of_run(pages):
    sections = {
        kind: [name.removesuffix("-title") for section in page.all("section") if (name := section["aria-labelledby"]).endswith("-title")]
        for kind, page in pages.items()
    }
    assert sections["debias"] == ["verdict", "run", "figures", "strength", "groups", "items", "limits", "provenance", "licences"]
    assert sections["compare"] == [name for name in sections["debias"] if name != "strength"]
    assert sections["audit"] == [name for name in sections["debias"] if name not in ("strength", "items")]
    assert "after" not in [data.strip() for tag, data in pages["audit"].texts if tag == "th"]


def test_words_of_the_verdict_are_printed_as_they_are(pages):
    for words in (HEADLINE, *SENTENCES, *LIMITS):
        assert words in pages["debias"].visible


def test_figures_are_printed_with_unit_interval_counts_and_protocol(folders, pages):
    rows = {
        row["state"]: row
        for row in pl.read_parquet(folders["debias"] / "tables" / "metrics.parquet")
        .filter(part="test", metric="pct_stereotype", group="all")
        .to_dicts()
    }
    visible = pages["debias"].visible.replace("\u00a0", " ")
    assert f"{rows['base']['value']:.1f} %" in visible
    difference = rows["difference"]
    assert f"−{abs(difference['value']):.1f} pp [−{abs(difference['low']):.1f}, −{abs(difference['high']):.1f}]" in visible
    assert "n = 240 · 30 clusters · ties 3 → 1 · skipped 0 · prefix id 0" in visible
    assert "starter, protocol sum, test part" in visible


def test_an_absent_interval_prints_its_note(pages):
    visible = pages["debias"].visible
    assert "too few clusters (3)" in visible and "no interval, so no claim" in visible
    assert "nan" not in visible.lower().split()


def test_texts_of_items_are_escaped_and_behind_a_click(folders, pages):
    page = pages["debias"]
    assert "<script>document.title='pwned'</script>" in page.visible
    assert "{{ 7*7 }}" in page.visible
    raw = (folders["debias"] / "report.html").read_text(encoding="utf-8")
    assert "<script>document" not in raw and 'onerror="' not in raw
    before_first_list = raw[: raw.index('<details class="items">')]
    assert "folded the map" not in before_first_list


def test_hostile_group_names_cannot_end_a_script(debias):
    metrics = debias / "tables" / "metrics.parquet"
    rewrite(metrics, group=pl.when(pl.col("group") == "height").then(pl.lit("</script><b>&'\"x")).otherwise(pl.col("group")))
    text = write_report(debias).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.unbalanced and not page.all("b")
    assert "</script><b>&'\"x" in page.visible
    assert text.count("</script") == len(page.all("script"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tables/metrics.parquet", "No figures were written for this run"),
        ("tables/strength.parquet", "No strength search was written for this run"),
        ("tables/ledger.parquet", "No ledger was written for this run"),
        ("tables/verdict.json", "No verdict was written for this run"),
        ("tables/items-base-test.parquet", "The text of this item was not stored with the run"),
    ],
)
def test_a_missing_table_is_said_plainly(debias, name, words):
    (debias / name).unlink()
    if "items" in name:
        (debias / "tables" / "items-edited-test.parquet").unlink()
    page = Page(write_report(debias).read_text(encoding="utf-8"))
    assert words in page.visible and not page.unbalanced


def test_a_bare_record_makes_a_page_without_scripts(tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "audit"}', encoding="utf-8")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert not page.all("script") and "Audit of a model" in page.visible


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FairforgetError, match=r"holds no run: it has no run\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "cannot be read"), ('{"kind": "chained"}', "the field 'kind'"), ('{"kind": "audit", "seed": "x"}', "the field 'seed'")],
)
def test_a_damaged_record_is_refused_with_a_sentence(tmp_path, text, words):
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        write_report(tmp_path)


def test_a_damaged_table_is_refused_with_a_sentence(debias):
    (debias / "tables" / "ledger.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"ledger\.parquet cannot be read"):
        write_report(debias)


def test_a_wide_run_stays_small(debias):
    metrics, ledger = (pl.read_parquet(debias / "tables" / f"{name}.parquet") for name in ("metrics", "ledger"))
    group_rows = metrics.filter(pl.col("group") == "height")
    many = [group_rows.with_columns(group=pl.lit(f"group {number}")) for number in range(2 * CHART_ROWS)]
    wide = pl.concat([metrics, *many])
    tasks = [wide, *(metrics.with_columns(task=pl.lit(f"task-{number}")) for number in range(6))]
    pl.concat(tasks).write_parquet(debias / "tables" / "metrics.parquet")
    items = debias / "tables" / "items-base-test.parquet"
    texts = pl.read_parquet(items).with_columns(texts=pl.concat_list(pl.lit("word " * 2000), pl.lit("word " * 2000)))
    for table, path in ((ledger, debias / "tables" / "ledger.parquet"), (texts, items)):
        pl.concat([table.with_columns(task=pl.lit(f"task-{number}")) for number in range(24)]).write_parquet(path)
    page = write_report(debias)
    assert page.stat().st_size < 3_000_000
    text = page.read_text(encoding="utf-8")
    assert text.count('data-chart="') == PAGE_CHARTS
    assert "more charts were left out" in text and f"{CHART_ROWS + 4} more in the table" in text


def test_a_collapsed_state_does_not_break_the_charts(debias):
    strength = debias / "tables" / "strength.parquet"
    collapsed = pl.col("strength") == 1.0
    rewrite(
        strength,
        perplexity_ratio=pl.when(collapsed).then(float("inf")).otherwise(pl.col("perplexity_ratio")),
        ratio_high=pl.when(collapsed).then(float("nan")).when(pl.col("strength") == 0.75).then(900.0).otherwise(pl.col("ratio_high")),
    )
    page = Page(write_report(debias).read_text(encoding="utf-8"))
    assert "×∞" in page.visible
    assert any('"symlog"' in data for tag, data in page.texts if tag == "script" and data.startswith("{"))


def test_the_page_needs_no_torch(tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "audit"}', encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from fairforget.report import write_report;"
        "assert not {'altair', 'vl_convert', 'jinja2'} & set(sys.modules), 'heavy import';"
        "write_report(Path(sys.argv[1]));"
        "assert not {'torch', 'transformers', 'altair', 'pandas'} & set(sys.modules), 'a page without charts needs none of these'"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


def test_a_comparison_names_its_runs(pages):
    visible = pages["compare"].visible
    assert "Comparison of one and two" in visible and "two − one, paired" in visible and "(other)" in visible


def test_the_caution_of_a_benchmark_stands_by_its_figures(pages):
    assert pages["debias"].visible.count("starter set: for a first look") >= 3


def test_no_edit_within_the_budget_is_said(debias):
    record = json.loads((debias / "run.json").read_text(encoding="utf-8"))
    (debias / "run.json").write_text(json.dumps(record | {"strength": 0.0}), encoding="utf-8")
    rewrite(debias / "tables" / "strength.parquet", chosen=pl.col("strength") == 0)
    visible = Page(write_report(debias).read_text(encoding="utf-8")).visible
    assert "None was taken: the model is left as it was." in visible
    assert "left as it was by fairforget" in model_card(debias)
