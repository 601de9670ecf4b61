"""The main job: audit the base, fit an edit, search its strength under a budget, audit both states on `test`, account for the change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fairforget.benchmarks import Benchmark
from fairforget.benchmarks._targets import perplexity_ratio, target_change, target_value
from fairforget.data.overlap import find_overlap
from fairforget.data.swaps import swap_gender
from fairforget.data.training import TrainingSource, TrainingText, training_source
from fairforget.edits import Edit, RuntimeEdit, WeightEdit, load_edit, merged
from fairforget.edits.change_sizes import change_sizes
from fairforget.errors import FairforgetError, UsageError
from fairforget.files import write_text
from fairforget.forgetting import Step, build_ledger
from fairforget.methods import method_registry
from fairforget.methods._base import Method
from fairforget.methods._trained import limited
from fairforget.models import Model, load
from fairforget.report import model_card, write_report
from fairforget.report.page import PAGE_NAME
from fairforget.scoring import Request, Scorer
from fairforget.tables import read_table, write_table
from fairforget.workflows.audit import evaluate_all, measure
from fairforget.workflows.base_audit import BaseAudit
from fairforget.workflows.estimate import estimate, run_tokens
from fairforget.workflows.guard import SelectGuard
from fairforget.workflows.ledger_tables import write_ledger_tables
from fairforget.workflows.plan import Plan, prepare
from fairforget.workflows.recipe import Recipe, is_recipe, recipe_yaml
from fairforget.workflows.run_folder import RunFolder, benchmark_facts, dataset_facts, model_facts, read_json
from fairforget.workflows.strength import StrengthSearch, given_strength, search_strength
from fairforget.workflows.suites import names_a_suite
from fairforget.workflows.text_account import account_for_texts, kept_text, text_sets
from fairforget.workflows.verdict import Evidence, Verdict, debias_verdict

PROBES = 32
"""Requests on which an edited state must differ from its base."""

CARD_NAME = "README.md"
"""The name under which model hubs look for a card."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DebiasResult:
    """What a run left.

    Attributes:
        folder: tables, page, model, edit, card.
        edit: the edit at the chosen strength; ``result.edit.at(0.6)`` is another.
        strength: the chosen strength; 0 where nothing within the budget helped.
        ledger: item by item, before and after.
        summary: the ledger by task and group.
        metrics: base, edited and paired difference, with intervals.
        curve: the strength search.
        verdict: the same in words.
    """

    folder: Path
    edit: Edit
    strength: float
    ledger: pl.DataFrame
    summary: pl.DataFrame
    metrics: pl.DataFrame
    curve: pl.DataFrame
    verdict: Verdict


def debias(
    model: Model | str | Path | None = None,
    recipe: Recipe | None = None,
    *,
    out: Path | str = "runs/debias",
    data: TrainingSource | Sequence[TrainingText] | Sequence[str] | None = None,
    base: BaseAudit | None = None,
    edit: Edit | None = None,
    save_model: bool = True,
    say: Say = lambda _: None,
    **choices: Any,
) -> DebiasResult:
    """Debias a model within a budget and account for everything that changed.

    Args:
        model: a loaded model, or what to load; the recipe's by default.
        recipe: all choices; by default those of the built-in run.
        out: the run's folder; the same call goes on where an interrupted one stopped.
        data: training data, in place of what the recipe names.
        base: tables of this base from before; it is then not measured again.
        edit: the edit of this recipe's method from before, e.g. of a run that differs in the strength alone; it is then not fitted again.
        save_model: write the edited model too, not the edit alone.
        say: told what is being done, a sentence at a time.
        **choices: fields of the recipe, e.g. ``benchmarks=["starter"]``, ``budget="perplexity=2%"``; instead of `recipe`.

    Raises:
        UsageError: choices that do not go together, or a folder that holds another run.
        DataError: data that are missing or damaged, or training text that occurs in a reported test.
        FairforgetError: the run cannot go on; what was finished is kept.
    """
    from fairforget.workflows.recipe import parse_recipe

    recipe = recipe or parse_recipe(choices, "debias()")
    if isinstance(model, Model):
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"ref": model.source})})
    elif model is not None:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"ref": str(model)})})
    folder = RunFolder(Path(out))
    with folder.opened(recipe_yaml(recipe), lambda path: is_recipe(path, recipe)):
        if folder.finished():
            say(f"The run in {folder.path} is finished already; its results are read, nothing is computed again.")
            if folder.work.exists() or not (folder.path / PAGE_NAME).exists() or not (_card_place(folder) / CARD_NAME).exists():
                _write_words(folder)  # a kill came between the record and the page
            return _read_result(folder)
        return _run(recipe, folder, model if isinstance(model, Model) else None, data, say, base, edit, save_model)


def _run(
    recipe: Recipe, folder: RunFolder, model: Model | None, data: TrainingSource | Sequence[TrainingText] | Sequence[str] | None, say: Say,
    known: BaseAudit | None, given: Edit | None, save_model: bool,
) -> DebiasResult:
    plan = prepare(recipe)
    method = method_registry().get(recipe.method.name)(**recipe.method.settings)
    if data is None:
        data = training_source(recipe.train.source, **recipe.train.arguments())
    if model is None:
        say(f"Loading {recipe.model.ref}.")
        model = load(recipe.model.ref, **recipe.model.arguments())
    method.check(model)
    if names_a_suite(recipe.benchmarks):
        plan = prepare(recipe, model.family)
    for benchmark in plan.benchmarks:
        benchmark.check(model)
    if names_a_suite(recipe.benchmarks):
        found = estimate(model, plan.benchmarks, ("select", "test"), recipe.seed)
        cost = plan.cost.name if plan.cost else None
        say(found.sentence(run_tokens(found, plan.target.name, cost, recipe.search.points, recipe.search.bisections)))
    warnings = [*model.notes, *refuse_overlap(data, plan.benchmarks, model.family)]
    for warning in warnings:
        say(f"Note: {warning}")
    options = {"resamples": recipe.resamples, "seed": recipe.seed}
    assert model.base_hash  # taken now, before anything touches the weights

    if known is not None:
        known.check(model, plan.benchmarks)
    say("1/6 Measuring the base on the select part.")
    select = known.select if known else measure(model, plan.benchmarks, "select", "base, select part")
    folder.write_items("base", "select", select)
    say("2/6 Fitting the edit.")
    edit = given or _fitted(method, model, data, recipe, folder, _guard(plan, recipe, method, select))
    for warning in edit.record.warnings:
        warnings.append(warning)
        say(f"Note: {warning}")
    say("3/6 Searching the strength on the select part, within the budget.")
    found = _search(model, edit, plan, recipe, select)
    write_table(found.curve, folder.tables / "strength.parquet")
    edit = edit.at(found.strength)
    say(f"4/6 Strength {found.strength:g}. Measuring base and edited model on the test part.")
    before = known.test if known else measure(model, plan.benchmarks, "test", "base, test part")
    folder.write_items("base", "test", before)
    after, state_after = before, model.state_id
    if found.strength:
        refuse_unchanged(model, edit, plan.target)
        with edit.applied(model):
            state_after = model.state_id
            after = measure(model, plan.benchmarks, "test", "edited, test part")
    folder.write_items("edited", "test", after)
    say("5/6 Intervals, ledger and verdict.")
    metrics = evaluate_all(plan.benchmarks, before, after, base_rows=known.metrics if known else None, **options)
    write_table(metrics, folder.tables / "metrics.parquet")
    step = Step(
        stage_name=recipe.method.name, state_before=model.state_id, state_after=state_after, tokenizer_hash=model.tokenizer_hash,
        template_hash=model.template_hash,
    )
    ledger = build_ledger(pl.concat(before), pl.concat(after), step=step)
    account = write_ledger_tables(ledger, folder, resamples=recipe.resamples, seed=recipe.seed)
    texts = None
    if found.strength and recipe.account.texts:
        try:
            texts = _texts(recipe, plan, method, edit, model, data, folder, say)
        except FairforgetError as error:  # an account beside the run must not cost what is measured
            warnings.append(f"What became of the texts behind the run could not be told: {error}")
            say(f"Note: {warnings[-1]}")
    if found.strength and isinstance(edit, WeightEdit):
        write_table(change_sizes(edit, model), folder.tables / "parameters.parquet")
    evidence = _evidence(plan, recipe, found, before, after)
    verdict = debias_verdict(evidence, [benchmark.caution for benchmark in plan.benchmarks])
    verdict.write(folder.tables / "verdict.json")
    say("6/6 Saving model, edit, card and page.")
    edit.save(folder.edit)
    runtime = _runtime(edit, model)
    if save_model and not (runtime and runtime["reason"]):
        merged(model, edit, folder.model)
    record = _record(recipe, plan, method, model, edit, found, before, data, warnings)
    folder.write_record({**record, "state": state_after, "runtime": runtime, "evidence": evidence.record(), "memorisation": texts})
    _write_words(folder)
    return DebiasResult(folder.path, edit, found.strength, ledger, account, metrics, found.curve, verdict)


def _texts(
    recipe: Recipe, plan: Plan, method: Method, edit: Edit, model: Model,
    data: TrainingSource | Sequence[TrainingText] | Sequence[str], folder: RunFolder, say: Say,
) -> dict[str, list[float]] | None:
    """Write what became of the texts behind the run; what is left to the record is how well the training texts are known by heart."""
    settings = recipe.method.settings
    data = limited(data, settings.get("max_texts"), recipe.seed)
    rows = data.texts if isinstance(data, TrainingSource) else data
    sets = text_sets(rows, plan.target, model.family, kept_text(settings, recipe.seed), recipe.account.texts)
    if not sets:
        return None
    account = account_for_texts(
        model, edit, sets, forgets=method.forgets_texts, extraction=recipe.account.extraction, resamples=recipe.resamples, seed=recipe.seed,
        say=say,
    )
    write_table(account.metrics, folder.tables / "texts.parquet")
    return account.memorisation


def _write_words(folder: RunFolder) -> None:
    """Page and card of a run whose tables and record are written; the checkpoints are no longer needed."""
    write_report(folder.path)
    place = _card_place(folder)
    write_text(place / CARD_NAME, model_card(folder.path, holds="model" if place == folder.model else "edit"))
    shutil.rmtree(folder.work, ignore_errors=True)


def _runtime(edit: Edit, model: Model) -> dict[str, str] | None:
    """What the card says of an edit that works at run time, and why it cannot be merged, empty where it was; None for one of weights."""
    if not isinstance(edit, RuntimeEdit):
        return None
    return {"kind": edit.kind, "description": edit.description, "reason": edit.why_not_weights(model)}


def _card_place(folder: RunFolder) -> Path:
    """The card lies beside the model, or beside the edit where no model was saved."""
    return folder.model if folder.model.is_dir() else folder.edit


def refuse_overlap(
    data: TrainingSource | Sequence[TrainingText] | Sequence[str], benchmarks: Sequence[Benchmark], family: str
) -> list[str]:
    """Refuse training text that occurs in a reported test.

    Returns:
        Warnings about training text that is near to test text.

    Raises:
        UsageError: a test text is among the training texts, whatever its case, spaces, punctuation and genders.
    """
    rows = data.texts if isinstance(data, TrainingSource) else data
    train = [text for row in rows for text in ([row] if isinstance(row, str) else [row.text, row.counterpart]) if text]
    warnings: list[str] = []
    for benchmark in benchmarks:
        texts = list(dict.fromkeys(text for item in benchmark.measured_items(family, "test") for text in item.texts))
        report = find_overlap(train, texts, swap_gender)
        if report.equal:
            raise UsageError(
                f"{report.equal} texts of the reported part of {benchmark.name} occur in the training data (case, punctuation and gender "
                "swaps aside): what is tested must not be trained on. Take them out of the training data, or drop this benchmark."
            )
        if report.near:
            near = f"{report.near} texts of the reported part of {benchmark.name}"
            warnings.append(f"{near} share half or more of their 8-word runs with the training data.")
    return warnings


def refuse_unchanged(model: Model, edit: Edit, benchmark: Benchmark) -> None:
    """Refuse an edited state that computes what its base computes.

    Raises:
        FairforgetError: all outputs on the probes are equal to the last bit.
    """
    items = benchmark.measured_items(model.family, "select")
    requests: list[Request] = [request for one in benchmark.requests(items, model) for request in one]
    probes = [requests[index] for index in np.unique(np.linspace(0, len(requests) - 1, min(PROBES, len(requests))).astype(int))]
    base = np.concatenate(Scorer(model, store=False).score(probes, "probes"))
    with edit.applied(model):
        edited = np.concatenate(Scorer(model, store=False).score(probes, "probes"))
    if np.array_equal(base, edited, equal_nan=True):
        raise FairforgetError(
            f"The edited model gives the base's outputs to the last bit on {len(probes)} probes at strength {edit.strength:g}: the edit "
            "does nothing, so no figure of it is reported. Train longer or with a higher learning rate."
        )


def _fitted(method: Any, model: Model, data: Any, recipe: Recipe, folder: RunFolder, guard: SelectGuard | None) -> Edit:
    """The edit of this run: read where it was finished before, else fitted, going on from checkpoints."""
    kept = folder.work / "edit"
    if (kept / "edit.json").exists():
        return load_edit(kept)
    edit: Edit = method.fit(model, data, seed=recipe.seed, folder=folder.work / "training", monitor=guard)
    edit.save(kept)
    return edit


def _guard(plan: Plan, recipe: Recipe, method: Any, select: Sequence[pl.DataFrame]) -> SelectGuard | None:
    """What watches the training, or None where the method is not to be watched or there is nothing to watch."""
    at_base = dict(zip((benchmark.name for benchmark in plan.benchmarks), select, strict=True))
    cost = (plan.cost, at_base[plan.cost.name]) if plan.cost else None
    guard = SelectGuard(recipe.guard, (plan.target, at_base[plan.target.name]), plan.metric, cost, recipe.budget.get("perplexity"))
    return guard if method.guarded and guard.watches else None


def _search(model: Model, edit: Edit, plan: Plan, recipe: Recipe, select: Sequence[pl.DataFrame]) -> StrengthSearch:
    at_base = dict(zip((benchmark.name for benchmark in plan.benchmarks), select, strict=True))
    held: dict[tuple[float, str], pl.DataFrame] = {}

    def table(strength: float, kind: str) -> pl.DataFrame:
        benchmark = plan.cost if kind == "perplexity" and plan.cost is not None else plan.target
        if strength == 0:
            return at_base[benchmark.name]
        key = (strength, benchmark.name)
        if key not in held:
            with edit.at(strength).applied(model):
                held[key] = measure(model, [benchmark], "select", f"strength {strength:g}: {benchmark.name}")[0]
        return held[key]

    budget = recipe.budget.get("perplexity")
    if recipe.search.strength is not None:
        return given_strength(table, plan.metric, recipe.search.strength, budget, resamples=recipe.resamples, seed=recipe.seed)
    return search_strength(table, plan.metric, budget, recipe.search, resamples=recipe.resamples, seed=recipe.seed)


def _evidence(
    plan: Plan, recipe: Recipe, found: StrengthSearch, before: Sequence[pl.DataFrame], after: Sequence[pl.DataFrame]
) -> Evidence:
    place = plan.benchmarks.index(plan.target)
    options = {"resamples": recipe.resamples, "seed": recipe.seed}
    base, edited = before[place], after[place]
    ratio = None
    if plan.cost is not None:
        cost = plan.benchmarks.index(plan.cost)
        ratio = perplexity_ratio(before[cost], after[cost], **options)
    return Evidence(
        target=plan.target_text,
        before=target_value(base, plan.metric),
        after=target_value(edited, plan.metric),
        change=target_change(base, edited, plan.metric),
        ratio=ratio,
        budget_percent=recipe.budget.get("perplexity"),
        strength=found.strength,
        search_reason=found.reason,
        unit="nats" if plan.metric == "margin" else "%",
        searched=recipe.search.strength is None,
    )


def _record(
    recipe: Recipe, plan: Plan, method: Any, model: Model, edit: Edit, found: StrengthSearch, before: Sequence[pl.DataFrame],
    data: Any, warnings: list[str],
) -> dict[str, Any]:
    provenance: dict[str, Any] = dict(edit.record.provenance)
    trained_on = [entry["name"] for entry in data.provenance.get("datasets", [])] if isinstance(data, TrainingSource) else []
    datasets = [*(name for benchmark in plan.benchmarks for name in benchmark.datasets), *trained_on]
    return {
        "kind": "debias",
        "model": model_facts(model),
        "method": {
            "name": method.name,
            "settings": method.settings.model_dump(mode="json"),
            "summary": method.summary,
            "source": method.source,
        },
        "training": {"source": recipe.train.source, **dict(provenance.get("training", {})), "data": provenance.get("training_data", {})},
        "target": plan.target_text,
        "budget": {"metric": "perplexity", "percent": recipe.budget["perplexity"]} if "perplexity" in recipe.budget else None,
        "strength": found.strength,
        "limit": found.limit,
        "part": "test",
        "edit_hash": edit.content_hash,
        "benchmarks": benchmark_facts(plan.benchmarks, before),
        "datasets": dataset_facts(datasets),
        "seed": recipe.seed,
        "warnings": warnings,
    }


def _read_result(folder: RunFolder) -> DebiasResult:
    """The result of a finished run, from its folder alone."""
    words = read_json(folder.tables / "verdict.json")
    edit = load_edit(folder.edit)
    strength = float(read_json(folder.record)["strength"])
    verdict = Verdict(words["headline"], words["kind"], tuple(words["sentences"]), tuple(words["limits"]))
    tables = {name: read_table(folder.tables / f"{name}.parquet") for name in ("ledger", "ledger-summary", "metrics", "strength")}
    return DebiasResult(
        folder.path, edit.at(strength), strength, tables["ledger"], tables["ledger-summary"], tables["metrics"], tables["strength"], verdict
    )
