"""Charts of a page as files: whole without the page, in its colours."""

import re
import xml.etree.ElementTree as ET

import pytest
from synthetic_study import write_synthetic_study

from fairforget.errors import UsageError
from fairforget.report import write_report
from fairforget.report.figure_files import light_colours, write_figures


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(write_synthetic_study(tmp_path_factory.mktemp("study")))


def test_every_chart_is_a_file_named_by_its_section(page, tmp_path):
    written = write_figures(page, tmp_path / "new" / "figures")
    assert [path.name for path in written] == [
        "frontier-1.svg", "frontier-2.svg", "frontier-3.svg", "contrasts-1.svg", "collapse-1.svg", "collapse-2.svg", "collapse-3.svg",
        "scaling-1.svg", "scaling-2.svg", "benchmarks-1.svg", "benchmarks-2.svg", "benchmarks-3.svg",
    ]
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert ET.fromstring(text).tag.endswith("svg")
        assert "var(--" not in text
        assert not re.search(r"(?:href|src)=\"http", text)
    assert light_colours()["limit"] in written[0].read_text(encoding="utf-8")  # the line of the budget


def test_other_formats_are_what_they_say(page, tmp_path):
    assert write_figures(page, tmp_path, "png")[0].read_bytes().startswith(b"\x89PNG")
    assert write_figures(page, tmp_path, "pdf")[0].read_bytes().startswith(b"%PDF")


def test_a_file_in_the_place_of_the_folder_is_left_alone(page, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        write_figures(page, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_page_without_charts_is_told(tmp_path):
    (tmp_path / "page.html").write_text("<html></html>")
    with pytest.raises(UsageError, match="has no chart"):
        write_figures(tmp_path / "page.html", tmp_path)
