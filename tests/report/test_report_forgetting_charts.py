"""The forest plot and the task matrix keep Vega-Lite's schema and show what they are given."""

import altair as alt
import pytest

from fairforget.report.charts import theme
from fairforget.report.forgetting_charts import biased_forgetting_chart, task_matrix_chart

NAN = float("nan")


def group(name, biased, low, high, **more):
    return {
        "group": name, "n": 50, "clusters": 10, "forgetting": 0.15 + biased, "biased": biased, "biased_low": low, "biased_high": high,
        "minimum_detectable": 0.1, "note": "", **more,
    }


ROWS = [
    group("more", 0.25, 0.1, 0.4), group("less", -0.15, -0.2, -0.1), group("a long name that is broken into two lines", -0.05, -0.1, 0.01),
    group("few", 0.3, NAN, NAN, minimum_detectable=NAN, note="too few clusters (3)"), group("none", NAN, NAN, NAN),
]
SCORES = [[0.85, 0.25], [0.55, 0.9]]


def data_values(specification):
    """Every inline row of every layer."""
    stores = specification.get("datasets", {})
    layers = [specification, *specification["layer"]]
    return [row for layer in layers if "data" in layer for row in layer["data"].get("values", stores.get(layer["data"].get("name"), []))]


@pytest.mark.parametrize("chart", [
    biased_forgetting_chart(ROWS, "share", margin=0.02), biased_forgetting_chart(ROWS, "nats"),
    task_matrix_chart(SCORES, ["a", "b"], ["teach a", "teach b"], base=[0.4, 0.25], learned=[0, 1]),
    task_matrix_chart([[-2.0, -3.0]], ["a", "b"], ["one"], percent=False),
], ids=["forest", "forest in nats", "matrix", "matrix in nats"])
def test_specifications_keep_the_schema(chart):
    assert chart["width"] == "container"
    alt.LayerChart.from_dict({**chart, "config": theme()}, validate=True)


def test_only_intervals_without_zero_are_a_difference():
    points = {row["group"]: row for row in data_values(biased_forgetting_chart(ROWS, "share")) if "reading" in row}
    readings = {name: row["reading"] for name, row in points.items()}
    assert list(readings.values()) == ["forgets more", "forgets less", "no difference shown", "no difference shown"]
    assert "\n" in list(points)[2]
    assert points["more"]["value"] == pytest.approx(25)
    assert points["few"]["low"] is None
    assert "too few clusters (3)" in points["few"]["words"]
    assert points["more"]["detectable"].startswith("± 10")


def test_margin_is_a_band_and_zero_a_line():
    rows = data_values(biased_forgetting_chart(ROWS, "share", margin=0.02))
    assert next(row for row in rows if "below" in row) == {"below": -2.0, "above": 2.0}
    assert [row["reference"] for row in rows if "reference" in row] == [0.0]
    assert not [row for row in data_values(biased_forgetting_chart(ROWS, "share")) if "below" in row]


def test_matrix_has_every_score_and_marks_what_was_taught():
    rows = data_values(task_matrix_chart(SCORES, ["a", "b"], ["teach a", "teach b"], base=[0.4, NAN], learned=[0, 1]))
    cells = {(row["stage"], row["task"]): row for row in rows if "score" in row}
    assert len(cells) == 5
    assert cells["base", "a"]["score"] == 0.4
    assert [place for place, row in cells.items() if row["taught"]] == [("1. teach a", "a"), ("2. teach b", "b")]
    assert cells["2. teach b", "a"]["text"].startswith("55")


def test_nothing_to_draw_is_no_chart():
    assert biased_forgetting_chart(ROWS[-1:], "share") is None
    assert task_matrix_chart([[NAN]], ["a"], ["one"]) is None
