import altair as alt
import pytest

from fairforget.report.charts import cost_chart, interval_chart, javascript_bundle, target_chart, theme
from fairforget.report.comparisons import Comparison, Measurement

NAMES = {"base": "before", "edited": "after", "difference": "change"}
CURVE = [
    {
        "strength": 0.0,
        "perplexity_ratio": 1.0,
        "ratio_low": 1.0,
        "ratio_high": 1.0,
        "target": 0.4,
        "target_se": 0.1,
        "signed_mean": 0.3,
        "within_budget": True,
    },
    {
        "strength": 0.5,
        "perplexity_ratio": 1.01,
        "ratio_low": 1.0,
        "ratio_high": 1.015,
        "target": 0.1,
        "target_se": None,
        "signed_mean": -0.1,
        "within_budget": True,
    },
    {
        "strength": 1.0,
        "perplexity_ratio": 1.1,
        "ratio_low": None,
        "ratio_high": None,
        "target": None,
        "target_se": None,
        "signed_mean": None,
        "within_budget": False,
    },
]


def comparison(group, low=40.0):
    base, edited = Measurement(60.0, 55.0, 65.0), Measurement(50.0, low, None if low is None else 60.0)
    return Comparison("test", "b", "p", "t", "m", group, "%", "neutral", 50.0, 0.0, base, edited, Measurement(-10.0, -12.0, -8.0))


def data_values(specification):
    """Every inline row of every layer."""
    stores = specification.get("datasets", {})
    layers = [specification, *specification["layer"]]
    return [row for layer in layers if "data" in layer for row in layer["data"].get("values", stores.get(layer["data"].get("name"), []))]


def drawn():
    rows = [comparison("one"), comparison("two", low=None)]
    return {
        "levels": interval_chart(
            rows, ("base", "edited"), NAMES, labels=["one", "a long label that is broken into two lines"], axis_title="per cent"
        ),
        "difference": interval_chart(rows, ("difference",), NAMES, labels=["one", "two"], axis_title="points"),
        "cost": cost_chart(CURVE, 2.0, 0.5),
        "cost without budget": cost_chart(CURVE, None, None),
        "target": target_chart(CURVE, 0.5, "nats"),
    }


@pytest.mark.parametrize("name", drawn())
def test_specifications_keep_the_schema(name):
    specification = drawn()[name]
    assert specification["width"] == "container"
    alt.LayerChart.from_dict({**specification, "config": theme()}, validate=True)


def test_levels_show_neutral_and_differences_show_no_change():
    specifications = drawn()
    assert [row["reference"] for row in data_values(specifications["levels"]) if "reference" in row] == [50.0]
    assert [row["reference"] for row in data_values(specifications["difference"]) if "reference" in row] == [0.0]


def test_every_measurement_is_a_mark_in_the_order_of_the_rows():
    rows = [row for row in data_values(drawn()["levels"]) if "value" in row]
    points = list({(row["row"], row["state"]): row for row in rows}.values())
    assert [(point["value"], point["low"]) for point in points] == [(60.0, 55.0), (50.0, 40.0), (60.0, 55.0), (50.0, None)]
    assert "\n" in points[-1]["row"] and points[0]["state"] == "before"


def test_budget_and_chosen_strength_are_lines():
    rows = [row for row in data_values(drawn()["cost"]) if "reference" in row]
    assert {(row["reference"], row["name"]) for row in rows} == {(2.0, "budget 2 %"), (0.5, "chosen 0.5")}
    assert not [row for row in data_values(drawn()["cost without budget"]) if "reference" in row]


def test_nothing_to_draw_is_no_chart():
    empty = Comparison("test", "b", "p", "t", "m", "g", "%", "neutral")
    assert interval_chart([empty], ("base",), NAMES, labels=["g"], axis_title="x") is None
    assert cost_chart([{**CURVE[0], "perplexity_ratio": float("inf")}], 2.0, None) is None
    assert target_chart([{**CURVE[0], "target": None}], None, "") is None


def test_the_bundle_can_stand_inside_a_script():
    bundle = javascript_bundle()
    assert "vegaEmbed" in bundle and 200_000 < len(bundle) < 1_500_000
    assert "</script" not in bundle and "\r" not in bundle and "<!--" not in bundle
