"""The geometry of words on the page of a run: how their angles are spread, and where their class means lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from fairforget.report import number_words
from fairforget.report.charts import reference_line, specification, unvalidated
from fairforget.tables import read_table

if TYPE_CHECKING:
    from fairforget.report.page import Figures

BENCHMARK = "geometry"
ENDING = "-words"
"""Tasks of the benchmark whose items are words: scores are cosine, two coordinates, number of states."""
SHOWN = 400
"""Most words in a table."""

Word = dict[str, Any]


def word_geometry(tables: Sequence[Path], part: str | None, names: dict[str, str], figures: Figures) -> dict[str, Any] | None:
    """The section's charts and tables; None where no geometry was measured.

    Args:
        tables: item tables of the run.
        part: the reported part.
        names: what the page calls the states.
        figures: charts of the page.
    """
    words = [word for path in tables if part is None or path.stem.endswith(f"-{part}") for word in _words(path)]
    if not words:
        return None
    states = [state for state in ("base", "edited") if any(word["state"] == state for word in words)]
    sets = list(dict.fromkeys(word["set"] for word in words))
    shown = [names[state] for state in states]
    for word in words:
        word["state"] = names[word["state"]]
    spreads = [_spread([word for word in words if word["set"] == name and word["state"] == state], name, state)
               for name in sets for state in shown]
    said = "; ".join(f"{row['set']} {row['state']}: mean {row['mean']}, spread {row['spread']}" for row in spreads)
    drawn = [figures.add(cosine_chart(words, sets, shown), f"Chart of the cosine of every word's output row and its class mean. {said}.")]
    for name in [name for name in sets if any(word["set"] == name and word["group"] for word in words)]:
        for state in shown:
            own = [word for word in words if word["set"] == name and word["state"] == state]
            drawn.append(figures.add(
                means_chart(own, f"{name}, {state}"),
                f"Chart of the class means of {len(own)} words of the set {name} in two dimensions, {state}. The table holds the words.",
            ))
    return {
        "figures": [figure for figure in drawn if figure is not None],
        "spreads": spreads,
        "states": shown,
        "sets": [{"name": name, "rows": _table([word for word in words if word["set"] == name], shown)} for name in sets],
    }


@unvalidated
def cosine_chart(words: Sequence[Word], sets: Sequence[str], states: Sequence[str]) -> dict[str, Any] | None:
    """A tick for every word at its cosine, a line per set and state, means as dots.

    Args:
        words: ``set``, ``state``, ``word``, ``cosine``.
        sets: names, from top to bottom.
        states: names, before first.
    """
    import altair as alt

    if not words:
        return None
    colours = ["var(--before)", "var(--after)"][: len(states)]
    colour = alt.Color("state:N", scale=alt.Scale(domain=list(states), range=colours), legend=alt.Legend(title=None))
    title = "cosine of a word's output row and its centred class mean"
    chart = alt.Chart(alt.InlineData(values=[{name: word[name] for name in ("set", "state", "word", "cosine")} for word in words]))
    place: dict[str, Any] = {
        "y": alt.Y("set:N", sort=list(sets), title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8)),
        "yOffset": alt.YOffset("state:N", sort=list(states)),
    }
    tooltip = [alt.Tooltip("word:N"), alt.Tooltip("cosine:Q", format=".3f"), alt.Tooltip("state:N")]
    ticks = chart.mark_tick(thickness=1.5, opacity=0.55, bandSize=16).encode(
        x=alt.X("cosine:Q", title=title, scale=alt.Scale(nice=True, padding=10)), color=colour, tooltip=tooltip, **place
    )
    means = chart.mark_point(filled=True, size=90, opacity=1, shape="diamond").encode(
        x=alt.X("mean(cosine):Q", title=title), color=colour, **place
    )
    return specification(alt.layer(reference_line(0.0), ticks, means), 60 * len(sets) * len(states))


@unvalidated
def means_chart(words: Sequence[Word], title: str) -> dict[str, Any] | None:
    """Class means in two dimensions, a dot a word, its size the number of states.

    Args:
        words: ``word``, ``group``, ``x``, ``y``, ``states``.
        title: what stands over the chart.
    """
    import altair as alt

    if not words:
        return None
    groups = list(dict.fromkeys(word["group"] or "no group" for word in words))
    values = [{name: word[name] for name in ("word", "x", "y", "states")} | {"group": word["group"] or "no group"} for word in words]
    two = len(groups) == 2
    scale = alt.Scale(domain=groups, range=["var(--before)", "var(--after)"]) if two else alt.Scale(domain=groups, scheme="tableau10")
    legend = alt.Legend(title=title)
    chart = alt.Chart(alt.InlineData(values=values)).mark_point(filled=True, opacity=0.8).encode(
        x=alt.X("x:Q", title="from group to group" if two else "first direction", axis=alt.Axis(tickCount=6)),
        y=alt.Y("y:Q", title="strongest direction beside it", axis=alt.Axis(tickCount=6)),
        color=alt.Color("group:N", scale=scale, legend=legend),
        shape=alt.Shape("group:N", scale=alt.Scale(domain=groups), legend=legend),
        size=alt.Size("states:Q", scale=alt.Scale(type="log", range=[25, 160]), legend=None),
        tooltip=[alt.Tooltip("word:N"), alt.Tooltip("group:N"), alt.Tooltip("states:Q")],
    )
    return specification(alt.layer(chart), 340)


def _words(path: Path) -> list[Word]:
    table = read_table(path, ("benchmark", "task", "texts", "scores", "skipped"))
    own = table.filter(
        (pl.col("benchmark") == BENCHMARK) & pl.col("task").str.ends_with(ENDING) & pl.col("skipped").is_null()
        & (pl.col("scores").list.len() == 4)
    )
    state = "edited" if "edited" in path.stem else "base"
    found: list[Word] = []
    for row in own.iter_rows(named=True):
        cosine, x, y, states = row["scores"]
        found.append({
            "set": row["task"].removeprefix(f"{BENCHMARK}-").removesuffix(ENDING), "state": state,
            "word": (row["texts"] or [row["item"]])[0],
            "group": (row["groups"] or [""])[0], "cosine": cosine, "x": x, "y": y, "states": states,
        })
    return found


def _spread(words: Sequence[Word], name: str, state: str) -> dict[str, Any]:
    cosines = np.array([word["cosine"] for word in words])
    return {
        "set": name, "state": state, "words": len(words), "mean": number_words.number(float(cosines.mean()) if len(cosines) else None),
        "spread": number_words.number(float(cosines.std(ddof=1)) if len(cosines) > 1 else None),
    }


def _table(words: Sequence[Word], states: Sequence[str]) -> list[dict[str, Any]]:
    """A row per word: group, states in the corpus, cosine in each state of the model."""
    by_word: dict[tuple[str, str], dict[str, Word]] = {}
    for word in words:
        by_word.setdefault((word["word"], word["group"]), {})[word["state"]] = word
    rows: list[dict[str, Any]] = [
        {
            "word": word, "group": group, "states": max(one["states"] for one in found.values()),
            "cosines": [number_words.number(found[state]["cosine"]) if state in found else number_words.MISSING for state in states],
        }
        for (word, group), found in by_word.items()
    ]
    return sorted(rows, key=lambda row: (-row["states"], row["word"]))[:SHOWN]
