"""A chain: stages of tuning in several orders, an audit after each, and the account of what each stage made the model forget.

States that several paths go through are fitted and audited once; the base is audited once for all seeds. A finished state is read from
its folder and never computed again, so that a chain that was killed goes on with the same command and ends in the same ledger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark
from fairforget.data.overlap import find_overlap
from fairforget.data.training import TrainingText
from fairforget.edits.carried import carried
from fairforget.errors import UsageError
from fairforget.files import write_json
from fairforget.forgetting import Step, balance, chain_ledger, join_ledgers
from fairforget.models import Model, load
from fairforget.report.chain_page import QUESTIONS, write_chain_page
from fairforget.tables import read_table, write_table
from fairforget.workflows.audit import measure, resolve_choices
from fairforget.workflows.chain_probes import (
    RELEARNED,
    SPECTRUM,
    STEP,
    measure_spectrum,
    measure_step,
    question_rows,
    relearn,
    spectrum_left,
    step_left,
)
from fairforget.workflows.chain_recipe import (
    DRIFT,
    ITEMS,
    SEPARATOR,
    STATE,
    ChainRecipe,
    Node,
    Stage,
    chain_yaml,
    read_chain,
    stage_tree,
    strength_items,
)
from fairforget.workflows.chain_stages import StageTrainer, check_stages, task_benchmarks
from fairforget.workflows.chain_tables import write_chain_tables
from fairforget.workflows.chain_words import chain_words
from fairforget.workflows.debias import refuse_overlap
from fairforget.workflows.drift import Drift, window_requests
from fairforget.workflows.loss_rows import GroupedRow
from fairforget.workflows.run_folder import RunFolder, benchmark_facts, dataset_facts, model_facts, read_json

Say = Callable[[str], None]

@dataclass(frozen=True)
class ChainResult:
    """What a chain left.

    Attributes:
        folder: states by seed, tables, page.
        ledger: a row per path, seed, stage and item.
        tables: every table by name, see :mod:`fairforget.workflows.chain_tables`.
        page: the page.
    """

    folder: Path
    ledger: pl.DataFrame
    tables: dict[str, pl.DataFrame]
    page: Path


def chain(recipe: ChainRecipe | str | Path, out: Path | str, *, model: Model | None = None, say: Say = lambda _: None) -> ChainResult:
    """Run a chain, or go on with it.

    Args:
        recipe: the chain, or its YAML file.
        out: its folder.
        model: the loaded base; the recipe's by default.
        say: told what is being done, a sentence at a time.

    Raises:
        UsageError: a recipe that cannot be run, or a folder that holds another one.
        DataError: data that are missing or damaged.
        FairforgetError: a training diverged; what was finished is kept.
    """
    if not isinstance(recipe, ChainRecipe):
        recipe = read_chain(Path(recipe))
    folder = RunFolder(Path(out))
    run = _Run(recipe, folder, model, say)
    with folder.opened(chain_yaml(recipe)):
        run.states()
        return run.account()


@dataclass(frozen=True)
class PlannedState:
    """A state that a chain goes through.

    Attributes:
        seed: of the run.
        path: titles of the stages that lead to it.
        finished: whether it is on disk.
    """

    seed: int
    path: str
    finished: bool


def plan_chain(recipe: ChainRecipe | str | Path, out: Path | str) -> list[PlannedState]:
    """The states of a chain in the order in which they are computed; nothing is run.

    Raises:
        UsageError: the recipe is not valid.
    """
    recipe = recipe if isinstance(recipe, ChainRecipe) else read_chain(Path(recipe))
    roots, _ = stage_tree(recipe)

    def states(node: Node, above: str, seed: int) -> list[PlannedState]:
        words = f"{above}{SEPARATOR}{node.stage.title}" if above else node.stage.title
        own = PlannedState(seed, words, (Path(out) / f"seed-{seed}" / node.folder / STATE).exists())
        return [own, *(state for child in node.children.values() for state in states(child, words, seed))]

    return [state for seed in recipe.seeds for root in roots.values() for state in states(root, "", seed)]


class _Run:
    """One call of :func:`chain`."""

    def __init__(self, recipe: ChainRecipe, folder: RunFolder, model: Model | None, say: Say) -> None:
        self.recipe, self.folder, self.say, self._model = recipe, folder, say, model
        self.roots, self.paths = stage_tree(recipe)
        self.tasks = task_benchmarks(recipe)
        self.others = resolve_choices(list(recipe.benchmarks)) if recipe.benchmarks else []
        self.benchmarks: list[Benchmark] = [*self.tasks.values(), *self.others]
        self.text = next((one for one in self.others if one.name == "perplexity"), None) if recipe.drift_positions else None
        self.nodes = [node for root in self.roots.values() for node in root.walk()]
        self.ways = {id(nodes[place]): nodes[: place + 1] for nodes in self.paths.values() for place in range(len(nodes))}
        self._trainer: StageTrainer | None = None
        self._done = 0

    @property
    def model(self) -> Model:
        """The base, loaded when it is first needed, and everything checked that needs no long computing."""
        if self._model is None:
            self.say(f"Loading {self.recipe.model.ref}.")
            self._model = load(self.recipe.model.ref, **self.recipe.model.arguments())
        if self._trainer is None:
            check_stages(self.recipe, [node.stage for node in self.nodes], self._model.family)
            for benchmark in self.benchmarks:
                benchmark.check(self._model)
            self._trainer = StageTrainer(self.recipe, self._model.family)
            self._refuse_overlap(self._model)
        return self._model

    @property
    def trainer(self) -> StageTrainer:
        """What fits stages."""
        assert self.model
        assert self._trainer is not None
        return self._trainer

    # states -----------------------------------------------------------------------------------------------------------------

    def states(self) -> None:
        """Fit and audit every state that is not finished."""
        base = self.folder.path / "base"
        if not (base / STATE).exists():
            self.say("Auditing the base.")
            self._audit(base, "base")
        if not (base / QUESTIONS).exists():
            self._write_questions(base)
        for seed in self.recipe.seeds:
            for root in self.roots.values():
                self._visit(root, [], seed, base)
        self._relearn()

    def place(self, node: Node, seed: int) -> Path:
        """The folder of a state."""
        return self.folder.path / f"seed-{seed}" / node.folder

    def _visit(self, node: Node, above: Sequence[Node], seed: int, before: Path) -> None:
        if all(self._finished(entry, seed) for entry in node.walk()):
            self._done += sum(1 for _ in node.walk())
            return
        self._done += 1
        path = [*above, node]
        stages, places = [entry.stage for entry in path], [self.place(entry, seed) for entry in path]
        folder, words = places[-1], f"seed {seed}: {' > '.join(stage.title for stage in stages)}"
        start = self._drift_from(before) if self.text is not None and not (folder / DRIFT).exists() else None
        with contextlib.ExitStack() as stack:
            if not node.stage.nothing:
                if not self._finished(node, seed):
                    self.say(f"[{self._done}/{len(self.nodes) * len(self.recipe.seeds)}] {words}.")
                edit = self.trainer.fit(self.model, stages, places, seed).at(node.stage.strength)
                self._strengths(node, edit, folder, words)
                if self._probes(path) == STEP and step_left(folder):
                    measure_step(self.model, self._rows(stages[:1], seed), edit, self.recipe, folder)
                stack.enter_context(carried(self.model, edit))
                if self._probes(path) == SPECTRUM and spectrum_left(folder):
                    measure_spectrum(self.model, self._rows(stages, seed), self.recipe, folder)
            if not (folder / STATE).exists():
                if node.stage.nothing:
                    self._copy(before, folder)
                else:
                    self._audit(folder, words)
            if start is not None:
                write_table(start.measure(self.model), folder / DRIFT)
                del start  # (places, vocabulary) of the state before is not held while later stages run
            for child in node.children.values():
                self._visit(child, path, seed, folder)

    def _finished(self, node: Node, seed: int) -> bool:
        """Whether a state's audits are on disk."""
        folder, probes = self.place(node, seed), self._probes(self.ways[id(node)])
        audited = (folder / STATE).exists() and all((folder / strength_items(strength)).exists() for strength in node.strengths)
        audited = audited and (self.text is None or (folder / DRIFT).exists())
        return audited and not (probes == SPECTRUM and spectrum_left(folder)) and not (probes == STEP and step_left(folder))

    def _probes(self, path: Sequence[Node]) -> str | None:
        """What is measured beside the audit where a path ends: the spectrum after a first stage that taught, the step of a second one."""
        first, last = path[0].stage, path[-1].stage
        if first.task is None or last.nothing or len(path) > 2:
            return None
        if len(path) == 1:
            return SPECTRUM if self.recipe.curvature else None
        return STEP if self.recipe.curvature or self.recipe.attribution else None

    def _rows(self, stages: Sequence[Stage], seed: int) -> list[GroupedRow]:
        texts, settings = self.trainer.loss_rows(stages, seed), self.trainer.method(stages[-1]).settings
        return question_rows(self.model, texts, self.recipe.probe_rows, getattr(settings, "max_length", self.model.max_length), seed)

    def _relearn(self) -> None:
        wanted, name = self.recipe.relearn, self.recipe.mitigated or next(iter(self.paths))
        for seed in self.recipe.seeds if wanted else ():
            assert wanted is not None
            nodes = self.paths[name]
            folder = self.place(nodes[-1], seed)
            if (folder / RELEARNED).exists():
                continue
            self.say(f"seed {seed}: learning {wanted.task} again from the end of '{name}' and from the base.")
            taught = next((number for number, node in enumerate(nodes) if node.stage.task == wanted.task), None)
            stage = [Stage.model_validate({"task": wanted.task})] if taught is None else [node.stage for node in nodes[: taught + 1]]
            rows = self.trainer.training(stage, seed)
            edits = [self.place(node, seed) / "edit" for node in nodes if not node.stage.nothing]
            strengths = [node.stage.strength for node in nodes if not node.stage.nothing]
            relearn(self.model, self.recipe, wanted, rows, self.tasks[wanted.task], list(zip(edits, strengths, strict=True)), seed, folder)

    def _strengths(self, node: Node, edit: Any, folder: Path, words: str) -> None:
        for strength in node.strengths:
            path = folder / strength_items(strength)
            if not path.exists():
                with edit.at(strength).applied(self.model):
                    write_table(pl.concat(self._measure(f"{words}, strength {strength:g}")), path)

    def _measure(self, words: str) -> list[pl.DataFrame]:
        tables = measure(self.model, self.benchmarks, "test", f"auditing {words}")
        keys = [set(table.select("benchmark", "task").unique().iter_rows()) for table in tables]
        for number, (first, benchmark) in enumerate(zip(keys, self.benchmarks, strict=True)):
            for second in keys[number + 1 :]:
                if first & second:
                    twice = next(iter(first & second))[1]
                    raise UsageError(f"Two tasks of the chain audit the same items ({twice}, of {benchmark.name}): name each once.")
        return tables

    def _audit(self, folder: Path, words: str) -> None:
        tables = self._measure(words)
        write_table(pl.concat(tables), folder / ITEMS)
        facts = {"state": self.model.state_id, "model": model_facts(self.model), "benchmarks": benchmark_facts(self.benchmarks, tables)}
        facts["tasks"] = {name: sorted(table["task"].unique()) for name, table in zip(self.tasks, tables, strict=False)}
        write_json(folder / STATE, facts)

    def _drift_from(self, before: Path) -> Drift:
        """The distributions of the model's present state, whose audit lies in `before`, on the running text."""
        assert self.text is not None
        table = read_table(before / ITEMS).filter(pl.col("benchmark") == self.text.name)
        requests = self.text.requests(self.text.measured_items(self.model.family, "test"), self.model)
        return Drift(self.model, table, window_requests(requests, table), self.recipe.drift_positions)

    def _write_questions(self, base: Path) -> None:
        """Keep the prompts of the audited questions: item tables hold the answers alone."""
        rows = [
            {"benchmark": benchmark.name, "task": item.task, "item": item.id, "prompt": item.payload["context"]}
            for benchmark in self.tasks.values()
            for item in benchmark.measured_items(self.model.family, "test")
            if isinstance(item.payload.get("context"), str)
        ]
        names = ("benchmark", "task", "item", "prompt")
        write_table(pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String())), base / QUESTIONS)

    def _copy(self, before: Path, folder: Path) -> None:
        """A stage that does nothing leads to the state before it, which was audited."""
        folder.mkdir(parents=True, exist_ok=True)
        write_table(read_table(before / ITEMS), folder / ITEMS)
        write_json(folder / STATE, read_json(before / STATE))

    def _refuse_overlap(self, model: Model) -> None:
        """Refuse stages that are trained on what is reported, with any of the seeds; what only resembles it is told."""
        asked = {
            name: list(dict.fromkeys(f"{item.payload.get('context', '')}" for item in benchmark.measured_items(model.family, "test")))
            for name, benchmark in self.tasks.items()
        }
        trained: dict[str, dict[TrainingText, None]] = {}  # of all seeds, which draw other rows, by what the stage is called
        for path in [path for root in self.roots.values() for path in _prefixes(root) if not path[-1].nothing]:
            for seed in self.recipe.seeds:
                rows = self.trainer.training(path, seed).texts
                trained.setdefault(path[-1].title, {}).update(dict.fromkeys(rows))
        told: set[str] = set()
        for title, rows in trained.items():
            for name, tested in asked.items():
                report = find_overlap([row.prompt or row.text for row in rows], tested)
                if report.equal:
                    raise UsageError(
                        f"{report.equal} questions of the reported part of '{name}' are among those that the stage '{title}' "
                        "is trained on: what is tested must not be trained on. Choose another task or other settings."
                    )
            # an answer alone is a word or two, which any text may hold: it is looked for with its question
            whole = [replace(row, prompt="", text=f"{row.prompt}{row.text}") if row.prompt else row for row in rows]
            told |= set(refuse_overlap(whole, self.others, model.family))
        for words in sorted(told):
            self.say(f"Note: {words}")

    # account ----------------------------------------------------------------------------------------------------------------

    def account(self) -> ChainResult:
        """Ledger, tables, words and page from the states' folders."""
        base = self.folder.path / "base"
        facts = read_json(base / STATE)
        hashes = {name: facts["model"].get(name) for name in ("tokenizer_hash", "template_hash")}
        ledgers: list[pl.DataFrame] = []
        for name, nodes in self.paths.items():
            for seed in self.recipe.seeds:
                places = [base, *(self.place(node, seed) for node in nodes)]
                step = Step(run=name, seed=seed, **hashes)
                ledgers.append(chain_ledger(
                    [read_table(place / ITEMS) for place in places], [node.stage.title for node in nodes], step=step,
                    states=[read_json(place / STATE)["state"] for place in places],
                    drifts={number: read_table(place / DRIFT) for number, place in enumerate(places) if (place / DRIFT).exists()},
                ))
        ledger = join_ledgers(ledgers)
        balance(ledger)
        write_table(ledger, self.folder.tables / "ledger.parquet")
        self.say("Intervals, comparisons and page.")
        tables = write_chain_tables(self.recipe, self.paths, facts["tasks"], self.others, ledger, self.folder, self.place)
        chain_words(tables, len(self.recipe.seeds)).write(self.folder.tables / "verdict.json")
        self.folder.write_record({
            "kind": "chain",
            "model": facts["model"],
            "paths": {name: [node.stage.title for node in nodes] for name, nodes in self.paths.items()},
            "tasks": facts["tasks"],
            "seeds": list(self.recipe.seeds),
            "tuning": self.recipe.tuning,
            "probe": self.recipe.probe,
            "benchmarks": facts["benchmarks"],
            "datasets": dataset_facts([name for benchmark in self.benchmarks for name in benchmark.datasets]),
            "stages": {
                name: [node.stage.model_dump(mode="json", exclude_defaults=True) for node in nodes] for name, nodes in self.paths.items()
            },
        })
        return ChainResult(self.folder.path, ledger, tables, write_chain_page(self.folder.path))


def _prefixes(node: Node, above: Sequence[Stage] = ()) -> list[list[Stage]]:
    """All paths of stages from a first state on, each ending in another state."""
    path = [*above, node.stage]
    return [path, *(deeper for child in node.children.values() for deeper in _prefixes(child, path))]
