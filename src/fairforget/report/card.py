"""The model card: the words and figures of the page as Markdown, with the metadata that model hubs read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from fairforget.errors import UsageError
from fairforget.report.comparisons import ALL, comparisons, reported_part
from fairforget.report.page import state_names
from fairforget.report.run_folder import ModelRecord, RunFolder, read_run_folder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MODEL_CLASS = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM"}
_PIPELINE = {"causal": "text-generation", "masked": "fill-mask"}


def model_card(run_folder: Path, *, holds: Literal["model", "edit"] = "model") -> str:
    """The model card of the edited model of a run, or of its edit alone, as Markdown with YAML front matter.

    Args:
        run_folder: what ``fairforget debias`` wrote with ``--out``.
        holds: what lies beside the card.

    Raises:
        FairforgetError: the folder holds no run.
        UsageError: the run is an audit or a comparison, which leaves no model.
    """
    import jinja2

    run = read_run_folder(Path(run_folder))
    model = run.record.model
    if run.record.kind != "debias" or model is None:
        kind = run.record.kind
        raise UsageError(
            f"{run.path} holds a run of kind '{kind}', which leaves no model to write a card for: give the folder of a debias run."
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fairforget.report"),
        autoescape=False,  # noqa: S701 - Markdown, not HTML: every printed value goes through `finalize`
        finalize=_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = comparisons(run.metrics, run.record.cautions.values())
    part = reported_part(rows)
    return environment.get_template("card.md.j2").render(
        front_matter=_Verbatim(_front_matter(run, model, holds)),
        holds=holds,
        record=run.record,
        model=model,
        verdict=run.verdict,
        names=state_names(run.record),
        part=part,
        rows=[row for row in rows if row.part == part and row.group == ALL],
        model_class=_MODEL_CLASS[model.family],
        content_warnings=[dataset.warning for dataset in run.record.datasets if dataset.warning],
    )


class _Verbatim(str):
    """Text of our own that is printed as it is."""

    __slots__ = ()


def _markdown(value: Any) -> Any:
    """Keep a printed value from breaking out of its cell, its line or its link, and from being HTML; words stay as they are."""
    if not isinstance(value, str) or isinstance(value, _Verbatim):
        return value
    return " ".join(value.split("\n")).replace("\r", "").replace("<", "&lt;").replace("|", "\\|").replace("`", "'").replace("](", "]\\(")


def _front_matter(run: RunFolder, model: ModelRecord, holds: str) -> str:
    import yaml

    record = run.record
    # hubs take an id here and nothing else: a local path would make the card invalid, and would tell the user's folders
    names = [name for name in (model.hub_id, model.source, model.name) if name and _HUB_ID.fullmatch(name)]
    base = next((name for name in names if not Path(name).exists()), None)
    fields: dict[str, Any] = {
        **(
            {"library_name": "transformers", "pipeline_tag": _PIPELINE[model.family]}
            if holds == "model"
            else {"library_name": "fairforget"}
        ),
        "license": model.license or "unknown",
        **({"base_model": base, "base_model_relation": "finetune" if holds == "model" else "adapter"} if base else {}),
        "tags": ["fairforget", "debiasing", "machine-unlearning", "fairness", *([record.method.name] if record.method else [])],
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).strip()
