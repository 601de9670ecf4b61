"""The heat map keeps Vega-Lite's schema, shows what it is given, and its caption says how exact it is."""

import altair as alt
import pytest

from fairforget.report.attribution_charts import attribution_caption, attribution_chart
from fairforget.report.charts import theme

ROWS = [
    {"group": group, "place": place, "nats": nats}
    for group, row in (("all", (0.1, -0.02)), ("one", (0.3, 0.0)), ("two", (-0.1, float("nan"))))
    for place, nats in zip(("b.0", "b.1"), row, strict=True)
]


def cells(chart):
    stores = chart.get("datasets", {})
    layer = next(layer for layer in [chart, *chart["layer"]] if "data" in layer)
    return layer["data"].get("values", stores.get(layer["data"].get("name")))


@pytest.mark.parametrize("rows", [ROWS, [{**ROWS[0], "group": str(number)} for number in range(9)]], ids=["figures", "colours alone"])
def test_specification_keeps_the_schema(rows):
    chart = attribution_chart(rows)
    assert chart["width"] == "container"
    alt.LayerChart.from_dict({**chart, "config": theme()}, validate=True)
    assert len(chart["layer"]) == (2 if len(rows) == len(ROWS) else 1)


def test_every_part_that_is_a_number_is_a_cell():
    found = {(cell["group"], cell["place"]): cell for cell in cells(attribution_chart(ROWS, names={"all": "all items"}))}
    assert set(found) == {("all items", "b.0"), ("all items", "b.1"), ("one", "b.0"), ("one", "b.1"), ("two", "b.0")}
    assert found["all items", "b.1"]["text"] == "−0.020"
    assert found["one", "b.0"]["text"] == "+0.300"


def test_chosen_groups_and_places():
    found = cells(attribution_chart(ROWS, groups=["one", "all"], places=["b.1"]))
    assert [(cell["group"], cell["place"]) for cell in found] == [("all", "b.1"), ("one", "b.1")]


def test_caption_has_the_largest_gap():
    rows = [{"group": "all", "error": 1e-4}, {"group": "one", "error": 0.02}, {"group": "two", "error": None}]
    caption = attribution_caption(rows, 8)
    assert "within 2 % (largest gap: one)" in caption
    assert "8 nodes" in caption
    assert "No group's loss changed" in attribution_caption(rows[2:], 8)


def test_nothing_to_draw_is_no_chart():
    assert attribution_chart([]) is None
    assert attribution_chart(ROWS[-1:]) is None
