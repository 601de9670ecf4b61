"""Vega-Lite charts by Altair: interval dots and the strength curve.

Colours are CSS variables of the page, so that light, dark and print need no second drawing; shape and line style say the same as
colour, for those who do not see it.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fairforget.report.comparisons import Comparison
from fairforget.report.number_words import is_number

if TYPE_CHECKING:
    import altair as alt

Parameters = ParamSpec("Parameters")
Specification = TypeVar("Specification", bound="dict[str, Any] | None")

LABEL_WIDTH = 28
"""Characters of an axis label before it is broken into a second line."""

DENSE_ROWS = 12
"""From here on, rows stand closer."""

_STATE_COLOURS = {"base": "var(--before)", "edited": "var(--after)", "difference": "var(--ink)"}
_STATE_SHAPES = {"base": "circle", "edited": "diamond", "difference": "square"}


@functools.cache
def javascript_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script without dependencies (about 0.9 MB), of the Vega-Lite version that Altair writes."""
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    known: list[str] = vl_convert.get_vegalite_versions()
    bundle: str = vl_convert.javascript_bundle(
        snippet="window.vegaEmbed = vegaEmbed;", vl_version=version if version in known else known[-1]
    )
    # the HTML parser reads CR as LF and ends a script at its end tag, whatever JavaScript thinks of either
    return bundle.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")


def theme() -> dict[str, Any]:
    """Vega-Lite configuration shared by every chart of the page."""
    ink, muted, line, font = "var(--ink)", "var(--muted)", "var(--line)", "system-ui, sans-serif"
    return {
        "background": "transparent",
        "font": font,
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink,
            "titleColor": muted,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 220,
            "titlePadding": 8,
        },
        "legend": {
            "labelColor": ink, "titleColor": muted, "labelFontSize": 12, "orient": "top", "symbolSize": 90, "labelLimit": 260, "columns": 5,
        },
    }


def unvalidated(build: Callable[Parameters, Specification]) -> Callable[Parameters, Specification]:
    """Build a chart without Altair's check of every part against the schema: two thirds of the time of a page, and the tests check it."""

    @functools.wraps(build)
    def built(*arguments: Parameters.args, **named: Parameters.kwargs) -> Specification:
        from altair.utils.schemapi import debug_mode

        with debug_mode(arg=False):
            return build(*arguments, **named)

    return built


@unvalidated
def interval_chart(
    rows: Sequence[Comparison], states: Sequence[str], names: dict[str, str], *, labels: Sequence[str], axis_title: str
) -> dict[str, Any] | None:
    """Dots with 95 % intervals, a line per row, the given states side by side.

    Args:
        rows: what to draw, from top to bottom; rows share a unit.
        states: "base", "edited" or "difference".
        names: what the legend calls each state.
        labels: one per row.
        axis_title: name of the axis, with unit.

    Returns:
        A Vega-Lite specification as wide as its container, or None where there is nothing to draw.
    """
    import altair as alt

    values = [point for row, label in zip(rows, labels, strict=True) for point in _points(row, states, names, label)]
    if not values:
        return None
    shown = [names[state] for state in states if any(value["state"] == names[state] for value in values)]
    colours, shapes = ([mapping[state] for state in states if names[state] in shown] for mapping in (_STATE_COLOURS, _STATE_SHAPES))
    legend = alt.Legend(title=None)
    y = alt.Y(
        "row:N",
        sort=list(dict.fromkeys(value["row"] for value in values)),
        title=None,
        axis=alt.Axis(labelExpr="split(datum.label, '\\n')", domain=False, ticks=False, labelPadding=8),
    )
    offset = alt.YOffset("state:N", sort=shown)
    colour = alt.Color("state:N", scale=alt.Scale(domain=shown, range=colours), legend=legend)
    shape = alt.Shape("state:N", scale=alt.Scale(domain=shown, range=shapes), legend=legend)
    # zero=False: a bias of 50 to 60 % is judged against neutral, not against nothing
    x = alt.X("value:Q", scale=alt.Scale(zero=False, nice=True, padding=12), title=axis_title, axis=alt.Axis(tickCount=6))
    tooltip = [alt.Tooltip("row:N", title="figure"), alt.Tooltip("state:N", title="state"), alt.Tooltip("text:N", title="value")]
    chart = alt.Chart(alt.InlineData(values=values)).encode(y=y, yOffset=offset, tooltip=tooltip)
    ranges = chart.mark_rule(strokeWidth=2.5, strokeCap="round").encode(x=alt.X("low:Q", title=axis_title), x2="high:Q", color=colour)
    outline = alt.Stroke("state:N", scale=alt.Scale(domain=shown, range=colours), legend=legend)
    hollow = alt.when(alt.datum["low"] == None).then(alt.value(0)).otherwise(alt.value(1))  # noqa: E711 - becomes a Vega expression
    dots = chart.mark_point(filled=True, opacity=1, size=80).encode(x=x, color=colour, stroke=outline, shape=shape, fillOpacity=hollow)
    references = _references(rows, states)
    marks = [reference_line(reference) for reference in references] + [ranges, dots]
    # the same for levels and differences, so that their rows stand side by side
    height = len(rows) * (44 if len(rows) <= DENSE_ROWS else 28)
    return specification(alt.layer(*marks), height)


@unvalidated
def cost_chart(rows: Sequence[dict[str, Any]], budget_percent: float | None, chosen: float | None) -> dict[str, Any] | None:
    """Perplexity cost in percent against strength, with intervals, the budget line and the chosen strength.

    Args:
        rows: rows of ``strength.parquet``.
        budget_percent: highest cost allowed, in percent; None without a budget.
        chosen: the strength that was taken; None where there is none.
    """
    import altair as alt

    values = [
        {
            "strength": row["strength"],
            "cost": 100 * (row["perplexity_ratio"] - 1),
            "low": 100 * (row["ratio_low"] - 1) if is_number(row.get("ratio_low")) else None,
            "high": 100 * (row["ratio_high"] - 1) if is_number(row.get("ratio_high")) else None,
            "budget": "within budget" if row.get("within_budget") else "over budget",
        }
        for row in rows
        if is_number(row["perplexity_ratio"])
    ]
    if not values:
        return None
    title = "perplexity cost (%)"
    highest = max(100 * (row["ratio_high"] - 1) if is_number(row["ratio_high"]) else 0.0 for row in rows)
    scale = alt.Scale(zero=True, nice=True)
    if budget_percent and highest > 15 * budget_percent:
        scale = alt.Scale(type="symlog", constant=budget_percent, zero=True)  # one collapsed state must not flatten the rest
    chart = alt.Chart(alt.InlineData(values=values)).encode(
        x=_strength_axis(rows),
        tooltip=[alt.Tooltip("strength:Q"), alt.Tooltip("cost:Q", title=title, format="+.2f"), alt.Tooltip("budget:N")],
    )
    y = alt.Y("cost:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
    marks: list[Any] = [
        chart.mark_line(color="var(--after)", strokeWidth=1.5, strokeOpacity=0.6).encode(y=y),
        chart.mark_rule(color="var(--after)", strokeWidth=2).encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q"),
        chart.mark_point(filled=True, opacity=1, size=80).encode(
            y=y, **_two_marks("budget", ["within budget", "over budget"], "var(--limit)", "cross")
        ),
    ]
    in_right_half = _in_right_half(chosen, rows)
    if budget_percent is not None:
        marks += _budget_line(budget_percent, left=in_right_half)
    return specification(alt.layer(*marks, *_chosen_line(chosen, left=in_right_half)), 260)


@unvalidated
def target_chart(rows: Sequence[dict[str, Any]], chosen: float | None, unit: str) -> dict[str, Any] | None:
    """The target with one standard error against strength, and the signed mean, whose crossing of zero is a reversal.

    Args:
        rows: rows of ``strength.parquet``.
        chosen: the strength that was taken; None where there is none.
        unit: unit of the target, for the axis.
    """
    import altair as alt

    measured = [row for row in rows if is_number(row["target"])]
    if not measured:
        return None
    title = f"bias target ({unit})" if unit else "bias target"
    values: list[dict[str, Any]] = []
    for row in measured:
        error = row["target_se"] if is_number(row.get("target_se")) else None
        low, high = (row["target"] - error, row["target"] + error) if error is not None else (None, None)
        values.append({"strength": row["strength"], "curve": "target ± 1 standard error", "value": row["target"], "low": low, "high": high})
    signed = [
        {"strength": row["strength"], "curve": "signed mean", "value": row["signed_mean"], "low": None, "high": None}
        for row in measured
        if is_number(row.get("signed_mean"))
    ]
    curves = ["target ± 1 standard error", *(["signed mean"] if signed else [])]
    chart = alt.Chart(alt.InlineData(values=values + signed)).encode(
        x=_strength_axis(rows), tooltip=[alt.Tooltip("strength:Q"), alt.Tooltip("curve:N"), alt.Tooltip("value:Q", format=".4f")]
    )
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=5))
    encodings = _two_marks("curve", curves)
    marks: list[Any] = [
        reference_line(0.0, "y"),
        chart.mark_line(strokeWidth=1.5, strokeOpacity=0.6).encode(y=y, color=encodings["color"], detail="curve:N"),
        chart.mark_rule(color="var(--after)", strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        chart.mark_point(filled=True, opacity=1, size=80).encode(y=y, **encodings),
        *_chosen_line(chosen, left=_in_right_half(chosen, rows)),
    ]
    return specification(alt.layer(*marks), 260)


def _points(row: Comparison, states: Sequence[str], names: dict[str, str], label: str) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for state in states:
        measurement = getattr(row, state)
        if measurement is None or not is_number(measurement.value):
            continue
        points.append(
            {
                "row": "\n".join(textwrap.wrap(label, LABEL_WIDTH)) or "–",
                "state": names[state],
                "value": measurement.value,
                "low": measurement.low,
                "high": measurement.high,
                "text": f"{row.text(state)} {row.interval_text(state)}",
            }
        )
    return points


def _references(rows: Sequence[Comparison], states: Sequence[str]) -> list[float]:
    """Where the reference lines stand: the neutral points of levels, no change for differences."""
    if "difference" in states:
        return sorted({row.no_change for row in rows if row.difference is not None})
    return sorted({row.neutral for row in rows if row.neutral is not None})


def reference_line(position: float, axis: str = "x") -> alt.Chart:
    """A dashed line across a chart at a position on the ``x`` or ``y`` axis."""
    import altair as alt

    rule = alt.Chart(alt.InlineData(values=[{"reference": position}])).mark_rule(strokeDash=[5, 4], strokeWidth=1.5, color="var(--muted)")
    return rule.encode(x=alt.X("reference:Q")) if axis == "x" else rule.encode(y=alt.Y("reference:Q"))


def _budget_line(percent: float, *, left: bool) -> list[alt.Chart]:
    """A dashed line with its name at one end."""
    import altair as alt

    data = alt.Chart(alt.InlineData(values=[{"reference": percent, "name": f"budget {percent:g} %"}]))
    y = alt.Y("reference:Q")
    name = data.mark_text(align="left" if left else "right", dx=4 if left else 0, dy=-8, color="var(--limit)", fontSize=12, fontWeight=600)
    name = name.encode(text="name:N", x=alt.value(0 if left else "width"), y=y)
    return [data.mark_rule(strokeDash=[7, 4], strokeWidth=2, color="var(--limit)").encode(y=y), name]


def _chosen_line(chosen: float | None, *, left: bool) -> list[alt.Chart]:
    """A line at the strength that was taken, with its name on one side of it."""
    import altair as alt

    if chosen is None:
        return []
    data = alt.Chart(alt.InlineData(values=[{"reference": chosen, "name": f"chosen {chosen:.3g}"}]))
    rule = data.mark_rule(strokeWidth=1.5, color="var(--ink)").encode(x=alt.X("reference:Q"))
    return [
        rule,
        data.mark_text(
            align="right" if left else "left", dx=-5 if left else 5, dy=8, color="var(--ink)", fontSize=12, fontWeight=600,
        ).encode(text="name:N", x=alt.X("reference:Q"), y=alt.value(0)),
    ]


def _in_right_half(chosen: float | None, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the chosen strength has room for its name on the left of its line; the name of the budget then goes to the left end."""
    return chosen is None or chosen > _highest(rows) / 2


def _highest(rows: Sequence[dict[str, Any]]) -> float:
    return max([row["strength"] for row in rows], default=1.0) or 1.0


def _strength_axis(rows: Sequence[dict[str, Any]]) -> alt.X:
    import altair as alt

    scale = alt.Scale(domain=[0, _highest(rows)], nice=False, padding=10)
    return alt.X("strength:Q", title="strength of the edit", scale=scale, axis=alt.Axis(tickCount=6))


def _two_marks(field: str, names: Sequence[str], second_colour: str = "var(--before)", second_shape: str = "circle") -> dict[str, Any]:
    """Colour and shape for a field of at most two values."""
    import altair as alt

    colours, shapes = ["var(--after)", second_colour][: len(names)], ["diamond", second_shape][: len(names)]
    legend = alt.Legend(title=None)
    return {
        "color": alt.Color(f"{field}:N", scale=alt.Scale(domain=list(names), range=colours), legend=legend),
        "shape": alt.Shape(f"{field}:N", scale=alt.Scale(domain=list(names), range=shapes), legend=legend),
    }


def specification(chart: Any, height: int) -> dict[str, Any]:
    """The Vega-Lite specification of a chart as wide as its container, `height` pixels high, without a theme of its own."""
    import altair as alt

    sized = chart.properties(width="container", height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    specification: dict[str, Any] = sized.to_dict(validate=False)
    specification.pop("config", None)  # the page hands over one theme for all
    return specification
