"""The page of a run: one HTML file that needs nothing but a browser.

The scripts that may run are named by hash in a content security policy that allows no other source, so that neither a chart nor a text
of a dataset can fetch anything or run anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.files import write_text
from fairforget.report import charts, number_words
from fairforget.report.changed_items import changed_items
from fairforget.report.comparisons import ALL, Comparison, by_metric, by_task, comparisons, reported_part, shared_notes
from fairforget.report.edit_account import change_section, text_section
from fairforget.report.forgotten import biased_groups, forgetting_rows
from fairforget.report.run_folder import STRENGTH_OPTIONAL, RunFolder, RunRecord, read_run_folder
from fairforget.report.word_geometry import word_geometry

PAGE_NAME = "report.html"
CHART_ROWS = 40
"""Most rows of one chart; its table holds all of them."""
PAGE_CHARTS = 60
"""Most charts on one page; the tables go on."""

AXIS_TITLES = {"%": "per cent", "ppl": "perplexity", "ratio": "ratio"}
"""What an axis calls a unit; others go by their own name."""

_STATE_NAMES = {
    "debias": {"base": "before", "edited": "after", "difference": "after − before, paired"},
    "audit": {"base": "measured", "edited": "measured", "difference": "difference"},
    "compare": {"base": "first", "edited": "second", "difference": "second − first, paired"},
}


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into a run folder, from its record and tables alone.

    Args:
        run_folder: what ``fairforget debias``, ``audit``, ``compare``, ``study`` or ``chain`` wrote with ``--out``.

    Returns:
        The path of the page.

    Raises:
        FairforgetError: the folder holds no run, or the page cannot be written.
        DataError: the record or a table is damaged.
    """
    from fairforget.report.chain_page import holds_chain, write_chain_page
    from fairforget.report.study_page import STUDY_RECORD, write_study_page
    from fairforget.report.tradeoff_page import TRADEOFF_RECORD, write_tradeoff_page

    if (Path(run_folder) / STUDY_RECORD).is_file():
        return write_study_page(Path(run_folder))
    if (Path(run_folder) / TRADEOFF_RECORD).is_file():
        return write_tradeoff_page(Path(run_folder))
    if holds_chain(Path(run_folder)):
        return write_chain_page(Path(run_folder))
    run = read_run_folder(Path(run_folder))
    page = run.path / PAGE_NAME
    write_text(page, render_page(run))
    return page


def render_page(run: RunFolder) -> str:
    """The page as text; see :func:`write_report`."""
    figures = Figures(state_names(run.record))
    return render("page.html.j2", page_context(run, figures), figures)


def render(template: str, context: Mapping[str, Any], figures: Figures) -> str:
    """A page as text, with the charts of `figures` and the scripts that draw them inside.

    Args:
        template: name of the page's template.
        context: what it prints; the charts are in `figures` by then.
        figures: charts of the page.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fairforget.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # NaN is no JSON: better an error here than a page whose charts stay empty
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False, "separators": (",", ":")}
    environment.filters.update(
        quantity=number_words.quantity, number=number_words.number, count=number_words.count, duration=number_words.duration
    )
    environment.filters["setting"] = setting_text
    drawer = resources.files("fairforget.report").joinpath("templates", "page.js").read_text(encoding="utf-8")
    has_charts = bool(figures.specifications)
    return environment.get_template(template).render(
        **context,
        charts_left_out=figures.left_out,
        specifications=figures.specifications,
        theme=charts.theme(),
        bundle=charts.javascript_bundle() if has_charts else "",
        drawer=drawer if has_charts else "",
        script_hashes=[_content_hash(script) for script in (charts.javascript_bundle(), drawer)] if has_charts else [],
    )


def state_names(record: RunRecord) -> dict[str, str]:
    """What the page calls the states of a run: before and after, or the names of two runs that were compared."""
    names = _STATE_NAMES[record.kind]
    if len(record.runs) != 2:
        return names
    short = [Path(name).name for name in record.runs]
    first, second = short if short[0] != short[1] else record.runs
    return {"base": first, "edited": second, "difference": f"{second} − {first}, paired"}


class Figures:
    """Collects the chart specifications of a page, and gives each figure its number."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.specifications: dict[str, dict[str, Any]] = {}
        self.left_out = 0

    def add(self, specification: dict[str, Any] | None, description: str) -> dict[str, str] | None:
        """Register a chart; the template gets its id and its text alternative, or None where there is no chart."""
        if specification is None:
            return None
        if len(self.specifications) >= PAGE_CHARTS:
            self.left_out += 1
            return None
        identifier = f"chart-{len(self.specifications) + 1}"
        self.specifications[identifier] = specification
        return {"id": identifier, "description": description}

    def levels_and_differences(self, rows: Sequence[Comparison], labels: Sequence[str], title: str) -> list[dict[str, str]]:
        """The charts of rows that share a unit: levels, and beside them the paired differences where there are any."""
        rows, labels = rows[:CHART_ROWS], labels[:CHART_ROWS]
        found: list[dict[str, str] | None] = []
        for states in (("base", "edited"), ("difference",)):
            kept = [
                (row, label) for row, label in zip(rows, labels, strict=True) if any(getattr(row, state) is not None for state in states)
            ]
            if not kept:
                continue
            unit = kept[0][0].unit
            axis_title = AXIS_TITLES.get(unit, unit) if states != ("difference",) or unit != "%" else "percentage points"
            specification = charts.interval_chart(
                [row for row, _ in kept], states, self.names, labels=[label for _, label in kept], axis_title=axis_title
            )
            found.append(self.add(specification, describe_intervals(kept, states, self.names, title)))
        return [figure for figure in found if figure is not None]


def describe_intervals(rows: Sequence[tuple[Comparison, str]], states: Sequence[str], names: dict[str, str], title: str) -> str:
    """The text alternative of a chart of interval dots: what it shows, and its first figures in words; `rows` come with their labels."""
    said = [
        f"{label}: "
        + ", ".join(f"{names[state]} {row.text(state)} {row.interval_text(state)}" for state in states if getattr(row, state) is not None)
        for row, label in rows[:6]
    ]
    rest = f"; and {len(rows) - 6} more" if len(rows) > 6 else ""
    return f"Chart of {title} with 95 % intervals. {'; '.join(said)}{rest}. The table below holds every figure."


def page_context(run: RunFolder, figures: Figures) -> dict[str, Any]:
    """Everything that the template prints, by section."""
    record = run.record
    rows = comparisons(run.metrics, record.cautions.values())
    part = reported_part(rows)
    reported = [row for row in rows if row.part == part]
    overall = [row for row in reported if row.group == ALL]
    return {
        "record": record,
        "verdict": run.verdict,
        "recipe": run.recipe,
        "names": figures.names,
        "title": page_title(record),
        "part": part,
        "tiles": _tiles(record, overall),
        "task_tables": [_task_table(group, figures) for group in by_task(overall).values()],
        "other_rows": [row for row in rows if row.part != part and row.group == ALL],
        "strength": _strength_section(run, overall, figures),
        "group_tables": [_group_table(group, figures) for group in by_metric(row for row in reported if row.group != ALL).values()],
        "geometry": word_geometry(run.item_tables, part, figures.names, figures),
        "forgetting": _forgetting(run, figures),
        "biased": _biased(run, figures),
        "texts": text_section(run.texts, record.memorisation or {}, figures),
        "weights": change_section(run.parameters, figures),
        "changes": None if run.ledger is None else changed_items(run.ledger, run.item_tables),
        "content_warnings": [dataset.warning for dataset in record.datasets if dataset.warning],
    }


def _forgetting(run: RunFolder, figures: Figures) -> dict[str, Any]:
    table = run.forgetting if run.forgetting is not None else pl.DataFrame()
    return forgetting_rows(table, lambda row: str(row["task"]), figures)


def _biased(run: RunFolder, figures: Figures) -> list[dict[str, Any]]:
    if run.biased is None or run.dispersion is None:
        return []
    return biased_groups(run.dispersion, run.biased, ("benchmark", "task"), lambda fact: str(fact["task"]), figures)


def page_title(record: RunRecord) -> str:
    """Name of the run: kind and model."""
    model = record.model.name or record.model.source if record.model else ""
    if record.kind == "compare":
        names = state_names(record)
        return f"Comparison of {names['base']} and {names['edited']}"
    return f"{'Debiasing' if record.kind == 'debias' else 'Audit'} of {model or 'a model'}"


def setting_text(value: Any) -> str:
    """A settings value as the user would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _tiles(record: RunRecord, overall: Sequence[Comparison]) -> list[dict[str, str]]:
    """The two or three figures that the verdict is about: the target, the cost, the strength."""
    tiles: list[dict[str, str]] = []
    target = next((row for key in (f"{record.target}_rms", record.target) for row in overall if row.key == key), None)
    if target is not None:
        tiles.append(_tile("bias target", target))
    cost = _cost_row(record, overall) if record.kind == "debias" else None
    if cost is not None:
        tiles.append(_tile("cost", cost))
    if record.kind == "debias" and record.strength is not None:
        budget = f"budget: at most {record.budget.percent:g} % higher {record.budget.metric}" if record.budget else "no budget"
        tiles.append(
            {
                "role": "strength",
                "value": f"{record.strength:.3g}" if record.strength else "none",
                "name": "0 is the base, 1 the change as found",
                "detail": budget,
                "reading": "",
            }
        )
    return tiles


def _tile(role: str, row: Comparison) -> dict[str, str]:
    change = row.difference
    if change is not None and row.unit == "ratio" and change.value is not None:
        # a ratio of 1.011 is easier to judge against a budget in percent as +1.1 %
        low, high = (None if bound is None else 100 * (bound - 1) for bound in (change.low, change.high))
        value = f"{number_words.number(100 * (change.value - 1), '%', signed=True)} %"
        detail = f"{number_words.bounds(low, high, '%', signed=True)} %" if change.has_interval else row.interval_text("difference")
    elif row.base is not None and row.edited is not None:
        value, detail = f"{row.text('base')} → {row.text('edited')}", f"{row.text('difference')} {row.interval_text('difference')}"
    else:
        value, detail = row.text("base"), row.interval_text("base")
    return {"role": role, "name": f"{row.task_name}: {row.metric_name}", "value": value, "detail": detail, "reading": row.reading}


def _cost_row(record: RunRecord, overall: Sequence[Comparison]) -> Comparison | None:
    """The row of the budget's metric: its paired ratio where there is one, else its levels."""
    metric = record.budget.metric if record.budget else "perplexity"
    candidates = [row for row in overall if metric in (row.benchmark, row.metric)]
    return next((row for row in candidates if row.unit == "ratio"), candidates[0] if candidates else None)


def _task_table(rows: list[Comparison], figures: Figures) -> dict[str, Any]:
    # one axis holds one unit; perplexities per token and per word share a unit but no scale
    axes: dict[tuple[str, str], list[Comparison]] = {}
    for row in filter(_drawn, rows):
        axes.setdefault((row.unit, row.metric if row.unit == "ppl" else ""), []).append(row)
    drawn = [
        figure
        for same in axes.values()
        for figure in figures.levels_and_differences(same, [row.metric_name for row in same], same[0].task_name)
    ]
    return _table(rows, rows[0].task_name, drawn)


def _group_table(rows: list[Comparison], figures: Figures) -> dict[str, Any]:
    name = f"{rows[0].task_name} · {rows[0].metric_name}"
    drawn = figures.levels_and_differences(rows, [row.group for row in rows], f"{name} by group") if _drawn(rows[0]) else []
    return _table(rows, name, drawn)


def _drawn(row: Comparison) -> bool:
    """Whether a figure goes into charts: one of a test of whole sets (a p value) has no better side and no interval to draw."""
    return bool(row.better)


def _table(rows: list[Comparison], name: str, drawn: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "benchmark": rows[0].benchmark,
        "protocol": rows[0].protocol,
        "name": name,
        "rows": rows,
        "figures": drawn,
        "notes": shared_notes(rows),
        "undrawn": max(0, len(rows) - CHART_ROWS),
    }


def _strength_section(run: RunFolder, overall: Sequence[Comparison], figures: Figures) -> dict[str, Any] | None:
    if run.strength is None or run.strength.is_empty():
        return None
    record = run.record
    missing = [pl.lit(None).alias(name) for name in STRENGTH_OPTIONAL if name not in run.strength.columns]
    rows = run.strength.with_columns(missing).sort("strength").to_dicts()
    percent = record.budget.percent if record.budget else None
    unit = next((row.unit for row in overall if row.key == record.target), "")
    chosen = record.strength if record.strength is not None else next((row["strength"] for row in rows if row["chosen"]), None)
    at_chosen = next((row for row in rows if row["chosen"]), None)
    cost = f"Chart of perplexity cost in percent against strength, {len(rows)} strengths."
    if at_chosen is not None:
        interval = number_words.bounds(at_chosen.get("ratio_low"), at_chosen["ratio_high"], "ratio")
        ratio = number_words.quantity(at_chosen["perplexity_ratio"], "ratio")
        cost += f" At the chosen strength {at_chosen['strength']:.3g} perplexity is {ratio} of the base's, 95 % interval {interval}."
    if percent is not None:
        cost += f" The budget line stands at {percent:g} %."
    drawn = [
        figures.add(charts.cost_chart(rows, percent, chosen), f"{cost} The table below holds every figure."),
        figures.add(
            charts.target_chart(rows, chosen, unit),
            f"Chart of the bias target {record.target or ''} against strength, with one standard error and the signed mean."
            " The table below holds every figure.",
        ),
    ]
    return {"rows": rows, "unit": unit, "chosen": chosen, "percent": percent, "figures": [figure for figure in drawn if figure is not None]}


def _content_hash(script: str) -> str:
    """The source expression of a content security policy that allows exactly this inline script."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
