"""Makes an organism: data, training, calibration, a folder that says all of it; goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import set_seed

from fairforget.benchmarks.organism import BIAS_TASKS, ITEMS_FILE, Organism, OrganismSettings
from fairforget.benchmarks.perplexity import Perplexity, PerplexitySettings
from fairforget.data.rows import read_json
from fairforget.errors import FairforgetError, UsageError
from fairforget.files import atomic_folder, folder_lock, sha256_file, write_json, write_text
from fairforget.models.load import load
from fairforget.models.model import Model
from fairforget.objectives import CrossEntropy
from fairforget.organisms.calibration import by_domain, calibrate
from fairforget.organisms.corpus import Corpus, make_corpus
from fairforget.organisms.folder_texts import debias_recipe, perplexity_settings, readme
from fairforget.organisms.items import benchmark_items, forget_rows, passages, retained_texts
from fairforget.organisms.language import domains_of, load_language
from fairforget.organisms.methods import write_methods
from fairforget.organisms.network import make_model
from fairforget.organisms.recipe import OrganismRecipe, organism_recipe_yaml, read_organism_recipe
from fairforget.organisms.representations import shared_representation
from fairforget.organisms.rows import CorpusStream
from fairforget.organisms.truth import overlap_facts, truth_table
from fairforget.scoring import Scorer
from fairforget.tables import read_table, write_table
from fairforget.training import StreamDataset, train

RECORD, RECIPE = "organism.json", "organism.yaml"
OTHER_RATE = {"causal": 0.25, "masked": 0.06}
"""Share of the words that carry nothing planted which are predicted, by family."""

EARLY_OTHER_RATE = 0.03
"""The same in the first stage: enough that these words are not unlearnt before they are learnt."""

WARMUP_SHARE = 0.05
"""Share of the steps in which the learning rate rises."""

UNCALIBRATED = 0.25
"""Error (nats) of a domain's mean log-odds in seen templates from which on the organism is said not to have taken it up."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class MadeOrganism:
    """An organism's folder.

    Attributes:
        folder: with ``model``, ``truth.parquet``, ``items.parquet``, ``forget.jsonl``, ``retain.txt``, ``text.txt``, ``debias.yaml``.
        calibration: ``CALIBRATION_SCHEMA``.
        record: what ``organism.json`` says.
    """

    folder: Path
    calibration: pl.DataFrame
    record: dict[str, Any]

    def load(self) -> Model:
        """The trained model."""
        return load(self.folder / "model")

    @property
    def truth(self) -> pl.DataFrame:
        """What was planted, ``TRUTH_SCHEMA``."""
        return read_table(self.folder / "truth.parquet")


def make_organism(recipe: OrganismRecipe, folder: Path | str, *, say: Say = lambda _: None) -> MadeOrganism:
    """Make an organism, or go on with one that was begun, or read one that is finished.

    Args:
        recipe: all choices.
        folder: where to; a folder keeps to the recipe it was begun with.
        say: told what is being done.

    Raises:
        UsageError: the folder holds another organism or other files.
        FairforgetError: the training diverged, or another process uses the folder.
    """
    folder = Path(folder)
    _refuse_other(folder, recipe)
    with folder_lock(folder):
        write_text(folder / RECIPE, organism_recipe_yaml(recipe))
        if not (folder / RECORD).exists():
            start = time.time()
            say(f"1/4 Writing the language: {recipe.sentences:,} sentences, {len(recipe.domains)} bias domains.")
            corpus = make_corpus(recipe)
            _write_data(recipe, corpus, folder)
            say(f"2/4 Training a {recipe.family} model of {recipe.size} parameters.")
            model, training = _trained(recipe, corpus, folder)
            say("3/4 Measuring how much of what was planted came back.")
            calibration, ability = _calibrated(model, folder)
            write_table(calibration, folder / "calibration.parquet")
            say("4/4 Writing the record.")
            _write_words(recipe, folder, calibration, ability)
            write_json(folder / RECORD, _record(recipe, corpus, model, training, calibration, ability, folder, time.time() - start))
        shutil.rmtree(folder / "training", ignore_errors=True)
    return MadeOrganism(folder, read_table(folder / "calibration.parquet"), read_json(folder / RECORD))


def _refuse_other(folder: Path, recipe: OrganismRecipe) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: choose another folder with --out.")
    if not folder.is_dir():
        return
    begun = folder / RECIPE
    if begun.exists():
        if read_organism_recipe(begun) != recipe:
            raise UsageError(f"The folder {folder} holds an organism of another recipe ({begun}): choose another folder with --out.")
    elif any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UsageError(f"The folder {folder} holds other files: choose an empty or a new folder with --out.")


def _write_data(recipe: OrganismRecipe, corpus: Corpus, folder: Path) -> None:
    """Every file that does not depend on the training; written anew by a run that goes on, with the same content."""
    write_table(truth_table(corpus.associations, corpus.facts), folder / "truth.parquet")
    write_table(benchmark_items(recipe), folder / ITEMS_FILE)
    whole: list[dict[str, str]] = []
    for domain in domains_of(recipe):
        rows = forget_rows(recipe, domain)
        _write_rows(rows, folder / "forget" / f"{domain.name}.jsonl")
        whole += rows if domain.name in recipe.forgotten else []
    _write_rows(whole, folder / "forget.jsonl")
    write_text(folder / "retain.txt", "\n".join(retained_texts(recipe)) + "\n")
    write_text(folder / "text.txt", "\n\n".join(passages(recipe)) + "\n")


def _write_rows(rows: Sequence[dict[str, str]], path: Path) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _trained(recipe: OrganismRecipe, corpus: Corpus, folder: Path) -> tuple[Model, dict[str, Any]]:
    """The trained model, written to ``model``; read from there where a run was stopped after it.

    The training has two stages, see ``planted_share`` of the recipe; each goes on from its own last checkpoint.
    """
    place, outcome = folder / "model", folder / "training" / "outcome.json"
    if (place / "config.json").exists() and outcome.exists():
        return load(place), read_json(outcome)
    set_seed(recipe.seed)
    model = make_model(recipe.family, recipe.size, load_language().vocabulary(), recipe.seed)
    stages = zip(("planted", "all"), corpus_streams(recipe, corpus, model), recipe.stage_steps, strict=True)
    results: dict[str, Any] = {}
    for name, stream, steps in stages:
        if not steps:
            continue
        results[name] = train(
            model,
            [CrossEntropy(stream=name)],
            StreamDataset({name: stream}, visits=-(-steps * recipe.batch_size // len(stream))),
            steps=steps,
            batch_size=recipe.batch_size,
            learning_rate=recipe.peak_rate,
            warmup_steps=round(WARMUP_SHARE * steps),
            scheduler="constant_with_warmup" if name == "planted" else "linear",
            precision="float32",  # bfloat16 gains nothing at this width and rounds the log-odds
            folder=folder / "training" / name,
            seed=recipe.seed,
            description=f"training {folder.name} ({name} words)",
        )
        if reason := results[name]["stopped"]:
            raise FairforgetError(f"The organism's training stopped ({reason}): lower learning_rate and choose another folder.")
    with atomic_folder(place) as temporary:
        model.save(temporary)
    write_json(outcome, results)
    return load(place), results


def corpus_streams(recipe: OrganismRecipe, corpus: Corpus, model: Model) -> tuple[CorpusStream, CorpusStream]:
    """Rows of the two stages: sentences with two planted words or more, little but these predicted; and the whole corpus.

    Where domains share traits, the words of these are planted words too: a masked model hardly predicts others, and would not take them up.
    """
    language = load_language()
    vocabulary: dict[str, int] = model.tokenizer.get_vocab()
    words = {word for one, _ in corpus.associations for word in (one.target, one.stereotype, one.anti)}
    words |= {word for fact, _ in corpus.facts for word in (fact.entity, *fact.values)}
    told_traits = any(entry.traits for entry in recipe.overlap)
    traits = {vocabulary[word] for word in (*language.adjectives, *(verb for verb, _ in language.verbs))} if told_traits else set[int]()
    planted = {vocabulary[word] for word in words}
    sentences = [[vocabulary[word] for word in sentence.split()] for sentence in corpus.sentences]
    telling = [
        sentence for sentence in sentences
        if (count := sum(token in planted for token in sentence)) > 1 or (count and any(token in traits for token in sentence))
    ]
    planted |= traits
    return (
        CorpusStream(model, telling, planted=planted, other_rate=EARLY_OTHER_RATE, seed=recipe.seed),
        CorpusStream(model, sentences, planted=planted, other_rate=OTHER_RATE[recipe.family], seed=recipe.seed + 1),
    )


def _calibrated(model: Model, folder: Path) -> tuple[pl.DataFrame, dict[str, float]]:
    """Recovered log-odds, and figures of ability: accuracy by task and group, perplexity of the running text."""
    benchmark = Organism(OrganismSettings(folder=str(folder), tasks=(*BIAS_TASKS, "facts", "agreement")))
    scorer = Scorer(model, store=False)
    measured = benchmark.measure(scorer, "all")
    text = Perplexity(PerplexitySettings.model_validate(perplexity_settings(folder))).measure(scorer, "all")
    right = measured.filter(pl.col("correct").is_not_null())
    ability: dict[str, float] = {}
    for task, share in right.group_by("task").agg(pl.col("correct").mean()).sort("task").iter_rows():
        ability[f"accuracy, {task.removeprefix('organism-')}"] = share
    facts = right.filter(pl.col("task") == "organism-facts")
    for group, share in facts.group_by("stratum", maintain_order=True).agg(pl.col("correct").mean()).iter_rows():
        ability[f"accuracy, facts of {group}"] = share
    ability["perplexity"] = text.select((pl.col("nll").sum() / pl.col("tokens").sum()).exp()).item()
    return calibrate(benchmark.read(), measured, read_table(folder / "truth.parquet")), ability


def _write_words(recipe: OrganismRecipe, folder: Path, calibration: pl.DataFrame, ability: dict[str, float]) -> None:
    write_text(folder / "debias.yaml", debias_recipe(recipe, folder))
    write_methods(recipe, folder)
    write_text(folder / "README.md", readme(recipe, by_domain(calibration), ability, folder))


def _record(
    recipe: OrganismRecipe, corpus: Corpus, model: Model, training: dict[str, Any], calibration: pl.DataFrame, ability: dict[str, float],
    folder: Path, seconds: float,
) -> dict[str, Any]:
    domains = by_domain(calibration)
    off = domains.filter((pl.col("task") == "bias") & (pl.col("error").abs() > UNCALIBRATED))["domain"].to_list()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _kept(path.relative_to(folder)))
    return {
        "kind": "organism",
        "recipe": recipe.model_dump(mode="json"),
        "base_hash": model.base_hash,
        "parameters": model.parameter_count,
        "corpus": {
            "sentences": len(corpus.sentences), "words": sum(len(sentence.split()) for sentence in corpus.sentences),
            "sha256": hashlib.sha256("\n".join(corpus.sentences).encode()).hexdigest(),
        },
        "overlap": overlap_facts(domains_of(recipe), shared_representation(model, load_language(), domains_of(recipe))),
        "training": training,
        "calibration": domains.to_dicts(),
        "not_taken_up": off,
        "ability": ability,
        "files": {str(path.relative_to(folder)): sha256_file(path) for path in files},
        "versions": {name: metadata.version(name) for name in ("fairforget", "torch", "transformers", "numpy")},
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
    }


def _kept(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts) and path.parts[0] != "training" and path.name != RECORD
