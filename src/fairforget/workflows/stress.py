"""Stress after forgetting: how much of a bias returns after relearning, in fewer bits, and in other words."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark
from fairforget.data.training import training_source
from fairforget.edits import Edit, load_edit, merged
from fairforget.errors import UsageError
from fairforget.files import folder_lock, write_json, write_text
from fairforget.methods._base import texts_of
from fairforget.models import Model, load
from fairforget.models.load import check_four_bit
from fairforget.scoring import Scorer
from fairforget.tables import read_table, write_table
from fairforget.workflows.audit import measure
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import Recipe, parse_recipe, read_recipe
from fairforget.workflows.run_folder import RunFolder, git_state, read_json, versions
from fairforget.workflows.stress_items import reworded, rewording_of
from fairforget.workflows.stress_states import ROUND_TRIPS, Relearning, in_state, quantised_edits, relearned_edit
from fairforget.workflows.stress_table import BASE, EDITED, NO_STRESS, Measured, stress_markdown, stress_table

NF4 = "nf4"
"""4 bits by bitsandbytes: the library's own format and kernels."""
QUANTISATIONS = (*ROUND_TRIPS, NF4)
PARAPHRASE = "paraphrase"

Say = Callable[[str], None]


@dataclass(frozen=True)
class StressResult:
    """What a stress test left.

    Attributes:
        folder: ``RUN/stress``.
        table: a row per state and stress, ``STRESS_SCHEMA``.
        target: ``BENCHMARK:METRIC``.
        unit: of the target.
    """

    folder: Path
    table: pl.DataFrame
    target: str
    unit: str


@dataclass(frozen=True)
class _Condition:
    """One state under one stress, and how it is measured."""

    stress: str
    state: str
    measure: Callable[[], list[pl.DataFrame]]
    other_items: bool = False

    @property
    def name(self) -> str:
        return f"{self.state}-{self.stress}"


def stress(
    run: Path | str, *, relearn_steps: Sequence[int] = (10, 30, 100), quantise: Sequence[str] = ("int8", "int4"),
    paraphrase: bool | None = None, paraphrases: Path | None = None, relearning: Relearning | None = None, say: Say = lambda _: None,
) -> StressResult:
    """Put the edited model of a finished run, and its base beside it, under stress.

    Args:
        run: folder of a debiasing run. What is made goes into its subfolder ``stress``; what is there already is not made again.
        relearn_steps: fine-tune on the run's training texts for so many steps, each from the start.
        quantise: ``int8`` and ``int4`` (linear weights to that many bits and back, simulated), ``nf4`` (bitsandbytes).
        paraphrase: measure the target in other words; by default where its benchmark allows it.
        paraphrases: a file of one's own with the columns ``item``, ``stereotype`` and ``anti``.
        relearning: settings of the relearning.
        say: told what is being done.

    Raises:
        UsageError: no finished debiasing run, one without an edit, or a stress that does not apply.
        DataError: damaged files.
    """
    folder = RunFolder(Path(run))
    record = _record_of(folder)
    relearning = relearning or Relearning.model_validate({})
    _check(relearn_steps, quantise)
    values, lines = read_recipe(folder.recipe)
    recipe = parse_recipe(values, str(folder.recipe), lines)
    plan = prepare(recipe, str(record["model"]["family"]))
    other_words = _other_words(plan.target, paraphrase, paraphrases)
    place = folder.path / "stress"
    with folder_lock(place):
        say(f"Loading {recipe.model.ref}.")
        model = load(recipe.model.ref, **recipe.model.arguments())
        assert model.base_hash  # taken now, before anything touches the weights
        edit = load_edit(folder.edit).at(float(record["strength"]))
        edit.check_fits(model)
        benchmarks = [plan.target, *([plan.cost] if plan.cost is not None else [])]
        for benchmark in benchmarks:
            benchmark.check(model)
        texts = _training_texts(recipe, record) if relearn_steps else []
        settings = {"relearn": relearning.model_dump(), PARAPHRASE: other_words}
        _forget_other_settings(place, settings)
        bench = _Bench(model, edit, benchmarks, recipe, place, say)
        conditions = bench.conditions(relearn_steps, texts, relearning, quantise, other_words is not None, paraphrases)
        measured = [bench.measured(condition) for condition in conditions]
        say("Intervals.")
        table = stress_table(measured, plan.metric, resamples=recipe.resamples, seed=recipe.seed)
        unit = "nats" if plan.metric == "margin" else "%"
        write_table(table, place / "stress.parquet")
        write_text(place / "stress.md", stress_markdown(table, unit))
        facts = {"kind": "stress", "target": plan.target_text, "settings": settings, "edit_hash": edit.content_hash}
        write_json(place / "stress.json", {**facts, "versions": versions(), "git": git_state()})
        shutil.rmtree(place / "work", ignore_errors=True)
    return StressResult(place, table, plan.target_text, unit)


@dataclass(frozen=True)
class _Bench:
    """What all conditions are measured with."""

    model: Model
    edit: Edit
    benchmarks: list[Benchmark]
    recipe: Recipe
    place: Path
    say: Say

    def conditions(
        self, relearn_steps: Sequence[int], texts: Sequence[str], relearning: Relearning, quantise: Sequence[str], other_words: bool,
        paraphrases: Path | None,
    ) -> Iterator[_Condition]:
        """Every stress on the base and on the edited model; nothing is computed before a condition is measured."""
        subjects: list[tuple[str, Edit | None]] = [(BASE, None), (EDITED, self.edit)]
        for state, edit in subjects:
            yield _Condition(NO_STRESS, state, lambda edit=edit: self._in([edit] if edit else []))
        for steps in sorted(set(relearn_steps)):
            for state, edit in subjects:
                yield _Condition(
                    f"relearn-{steps}", state,
                    lambda state=state, edit=edit, steps=steps: self._relearned(state, edit, texts, steps, relearning),
                )
        for bits in dict.fromkeys(quantise):
            for state, edit in subjects:
                if bits == NF4:
                    yield _Condition(bits, state, lambda edit=edit: self._by_bitsandbytes(edit))
                else:
                    yield _Condition(bits, state, lambda edit=edit, bits=bits: self._in(quantised_edits(self.model, edit, bits)))
        if other_words:
            for state, edit in subjects:
                yield _Condition(
                    PARAPHRASE, state, lambda edit=edit: self._reworded(edit, paraphrases), other_items=True,
                )

    def measured(self, condition: _Condition) -> Measured:
        """The tables of a condition, read where they were made before."""
        many = 1 if condition.other_items else len(self.benchmarks)  # other words for the target change no perplexity
        paths = [self.place / "items" / f"{condition.name}-{number}.parquet" for number in range(many)]
        if all(path.exists() for path in paths):
            tables = [read_table(path) for path in paths]
        else:
            self.say(f"{condition.state}, {condition.stress}.")
            tables = condition.measure()
            for table, path in zip(tables, paths, strict=True):
                write_table(table, path)
        return Measured(condition.stress, condition.state, tables[0], tables[1] if len(tables) > 1 else None, condition.other_items)

    def _in(self, edits: Sequence[Edit]) -> list[pl.DataFrame]:
        with in_state(self.model, edits):
            return measure(self.model, self.benchmarks, "test", "under stress")

    def _relearned(self, state: str, edit: Edit | None, texts: Sequence[str], steps: int, relearning: Relearning) -> list[pl.DataFrame]:
        work = self.place / "work" / f"{state}-relearn-{steps}"
        learnt = relearned_edit(self.model, edit, texts, steps, relearning, seed=self.recipe.seed, folder=work)
        return self._in([*([edit] if edit else []), learnt])

    def _reworded(self, edit: Edit | None, paraphrases: Path | None) -> list[pl.DataFrame]:
        benchmark, items = reworded(self.benchmarks[0], self.model, paraphrases)
        with in_state(self.model, [edit] if edit else []):
            return [benchmark.measure_items(Scorer(self.model), items, "in other words")]

    def _by_bitsandbytes(self, edit: Edit | None) -> list[pl.DataFrame]:
        folder = self.place / "work" / NF4
        choice = self.recipe.model
        if edit is not None:
            merged(self.model, edit, folder)
        in_4bit: dict[str, Any] = {**choice.arguments(), "load_in_4bit": True}
        model = load(folder if edit is not None else choice.ref, **in_4bit)
        model.prefix_id = self.model.prefix_id
        return measure(model, self.benchmarks, "test", "under stress")


def _record_of(folder: RunFolder) -> dict[str, Any]:
    record = read_json(folder.record) if folder.finished() else {}
    if record.get("kind") != "debias":
        raise UsageError(f"{folder.path} holds no finished debiasing run: give the folder that `fairforget debias` wrote.")
    if not record["strength"]:
        raise UsageError(f"The run in {folder.path} left the model as it was (strength 0), so there is nothing to put under stress.")
    if not (folder.edit / "edit.json").exists():
        raise UsageError(f"{folder.path} holds no edit any more: run it again with the edit kept.")
    return record


def _check(relearn_steps: Sequence[int], quantise: Sequence[str]) -> None:
    if any(steps < 1 for steps in relearn_steps):
        raise UsageError("Relearning takes 1 step or more, e.g. --relearn-steps 10,30,100.")
    for bits in quantise:
        if bits not in QUANTISATIONS:
            raise UsageError(f"--quantise {bits}: known are {', '.join(QUANTISATIONS)}.")
    if NF4 in quantise:
        check_four_bit("--quantise nf4")


def _other_words(target: Benchmark, wanted: bool | None, file: Path | None) -> str | None:
    """How the target is reworded; None where it is not."""
    if wanted is False:
        return None
    try:
        return rewording_of(target, file)
    except UsageError:
        if wanted or file is not None:
            raise
        return None


def _training_texts(recipe: Recipe, record: dict[str, Any]) -> list[str]:
    data = record.get("training", {}).get("data", {})
    if data.get("source") == "given in Python":
        raise UsageError(
            "The training texts of this run were given in Python, so they cannot be taught again from here: use --relearn-steps none."
        )
    return texts_of(training_source(recipe.train.source, **recipe.train.arguments()))


def _forget_other_settings(place: Path, settings: dict[str, Any]) -> None:
    """Remove tables and edits of a kind of stress whose settings are no longer the same."""
    path = place / "settings.json"
    before = read_json(path) if path.exists() else settings
    for kind, value in settings.items():
        if before.get(kind) != value and before.get(kind) is not None and value is not None:
            for table in (place / "items").glob(f"*-{kind}*.parquet"):
                table.unlink()
            for work in (place / "work").glob(f"*-{kind}*"):
                shutil.rmtree(work)
    write_json(path, {**before, **{kind: value for kind, value in settings.items() if value is not None}})
