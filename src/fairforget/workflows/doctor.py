"""What a run would need on this machine, measured where that is quick and estimated where it is not; and the traps of a tokenizer."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import torch

from fairforget.data.training import training_source
from fairforget.edits.sites import find_sites, linear_axes, stored_transposed
from fairforget.errors import FairforgetError
from fairforget.files import cache_folder
from fairforget.methods._tuning import lora_targets
from fairforget.models import Model
from fairforget.report.number_words import duration
from fairforget.training.trainer import choose_precision
from fairforget.workflows.estimate import estimate, gigabytes, peak, run_tokens
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import Recipe
from fairforget.workflows.run_folder import versions
from fairforget.workflows.tokenizer_traps import Fact, tokenizer_facts

TRAINING_FACTOR = 3.0
"""A training step in forwards: one forward, and a backward that costs two (Kaplan et al. 2020, section 2.1)."""
ACTIVATION_BYTES = 34
"""Bytes kept per token, layer and hidden unit for a backward in 16 bits without attention maps (Korthikanti et al. 2022, eq. 2)."""


def diagnose(model: Model, recipe: Recipe, *, prefix: str = "auto", folder: Path | None = None) -> list[Fact]:
    """Examine a model for a run.

    Args:
        model: the base.
        recipe: the run that is meant.
        prefix: the prefix option that the model was loaded with.
        folder: where the run would write; the working folder by default.

    Raises:
        UsageError: the recipe names what there is not, or a benchmark that cannot score this family.
    """
    facts = [*_model(model), *tokenizer_facts(model, prefix), *_targets(model, recipe), *_work(model, recipe)]
    return [*facts, *_machine(model, folder or Path.cwd())]


def _model(model: Model) -> list[Fact]:
    section = "Model"
    dtype = str(model.dtype).removeprefix("torch.")
    conv = any(stored_transposed(site) for site in find_sites(model.hf).values())
    facts = [
        Fact(section, "class", f"{type(model.hf).__name__} ({model.family})"),
        Fact(section, "weights", f"{model.parameter_count / 1e6:.1f} M parameters, {gigabytes(_bytes(model))} in {dtype}"),
        Fact(section, "device", f"{model.device}, attention {model.attention_kernel}"),
        Fact(
            section, "head", "tied to the input embeddings" if model.tied_head else "a tensor of its own",
            "a dense edit of the one changes the other; a low-rank edit cannot be put on it" if model.tied_head else "",
        ),
        Fact(section, "linear weights", "stored (in, out), as Conv1D" if conv else "stored (out, in)"),
        Fact(section, "positions", f"{model.max_length}"),
    ]
    if model.family == "causal":
        shares = model.shares_prefixes
        facts.append(Fact(
            section, "shared prefixes", "computed once" if shares else "computed for each text",
            "" if shares else "the cache of this architecture cannot be continued from, so scoring takes longer",
        ))
    if model.sliding_window is not None:
        facts.append(Fact(section, "sliding window", f"{model.sliding_window} tokens"))
    if model.dtype != torch.float32:
        facts.append(Fact(section, "type of scores", dtype, "narrow types turn near-ties into ties: score in float32"))
    return facts + [Fact(section, "note", note) for note in model.notes]


def _targets(model: Model, recipe: Recipe) -> list[Fact]:
    """Linear layers by their last name, and which of them a LoRA would be on."""
    section = "LoRA targets"
    counts: Counter[tuple[str, int, int]] = Counter()
    head = model.hf.get_output_embeddings()
    for name, module in model.hf.named_modules():
        axes = linear_axes(module)
        if axes is not None and module is not head:  # PEFT leaves the head out unless it is named
            counts[(name.rpartition(".")[2], axes.inputs, axes.outputs)] += 1
    wanted = recipe.method.settings.get("targets", "attention")
    chosen = lora_targets(model, wanted)
    facts = [
        Fact(section, name, f"{count} of {inputs} -> {outputs}{', chosen' if chosen == 'all-linear' or name in chosen else ''}")
        for (name, inputs, outputs), count in counts.items()
    ]
    rank = recipe.method.settings.get("rank")
    if isinstance(rank, int):
        facts.append(Fact(section, f"trained at rank {rank}", f"{_lora_parameters(model, chosen, rank) / 1e6:.2f} M parameters"))
    return facts


def _lora_parameters(model: Model, chosen: str | list[str], rank: int) -> int:
    head = model.hf.get_output_embeddings()
    total = 0
    for name, module in model.hf.named_modules():
        axes = linear_axes(module)
        wanted = isinstance(chosen, str) or any(name == one or name.endswith(f".{one}") for one in chosen)
        if axes is not None and module is not head and wanted:
            total += rank * (axes.inputs + axes.outputs)
    return total


def _work(model: Model, recipe: Recipe) -> list[Fact]:
    """Tokens, time and memory of a run; times are of scoring and training alone."""
    section = "A run"
    plan = prepare(recipe, model.family)
    for benchmark in plan.benchmarks:
        benchmark.check(model)
    found = estimate(model, plan.benchmarks, ("select", "test"), recipe.seed)
    speed = found.speed
    facts = [
        Fact(section, f"{name}, {part} part", f"{count:,} tokens, {duration(count / speed)}")
        for (name, part), count in found.tokens.items() if name not in found.uncounted
    ]
    if found.uncounted:
        facts.append(Fact(section, "not estimated", f"{', '.join(found.uncounted)}: only they know what they will read"))
    facts += [
        Fact(section, f"{name}, written", f"at most {count:,} tokens on each part, {duration(count / found.writing_speed)}")
        for name, count in found.written.items()
    ]
    training, words = _training_tokens(model, recipe)
    cost = plan.cost.name if plan.cost else None
    scoring = run_tokens(found, plan.target.name, cost, recipe.search.points, recipe.search.bisections) / speed
    fitting = TRAINING_FACTOR * training / speed
    facts += [
        Fact(section, "scoring speed", f"{speed:,.0f} tokens/s, measured"),
        Fact(section, "scoring, at most", f"{duration(scoring)}: base, budget and strengths on select, base and edited on test"),
        Fact(section, "fitting, about", f"{duration(fitting)} ({words})"),
        Fact(section, "whole run, about", duration(scoring + fitting)),
    ]
    return facts + _memory(model, recipe)


def _training_tokens(model: Model, recipe: Recipe) -> tuple[int, str]:
    """Tokens that the fitting goes through, and that in words; 0 where the training data are not here yet."""
    settings = recipe.method.settings
    try:
        source = training_source(recipe.train.source, **recipe.train.arguments())
    except FairforgetError as error:
        return 0, f"training data not counted: {error}"
    limit = int(settings.get("max_length") or model.max_length)
    lengths = [min(len(model.sequence_ids(row.text)), limit) for row in source.texts]
    steps, batch = settings.get("steps"), int(settings.get("batch_size") or 1)
    visits = int(steps) * batch if steps else float(settings.get("epochs") or 1) * len(lengths)
    total = round(visits * sum(lengths) / len(lengths))
    return total, f"{len(lengths):,} texts, {total:,} tokens, estimated as {TRAINING_FACTOR:g} forwards each"


def _memory(model: Model, recipe: Recipe) -> list[Fact]:
    section, settings = "A run", recipe.method.settings
    config = model.hf.config.get_text_config()
    weights = _bytes(model)
    rows = int(settings.get("batch_size") or 1) // int(settings.get("accumulation") or 1)
    length = min(int(settings.get("max_length") or model.max_length), model.max_length)
    wide = 1 if choose_precision(str(settings.get("precision") or "auto"), model.device) else 2
    layers, width = int(getattr(config, "num_hidden_layers", 1)), int(getattr(config, "hidden_size", 1))
    activations = wide * ACTIVATION_BYTES * rows * length * layers * width + 3 * 4 * rows * length * int(config.vocab_size)
    low_rank = weights + activations
    full = weights + activations + 4 * 4 * model.parameter_count  # gradients, two moments of Adam, and the base that is kept
    tuning = settings.get("tuning")
    facts = [
        Fact(section, "memory of scoring", f"{gigabytes(peak(model))}, the peak so far"),
        Fact(section, "memory of fitting", f"about {gigabytes(full if tuning == 'full' else low_rank)} with these settings"),
    ]
    if tuning != "full":
        facts.append(Fact(section, "memory of full tuning", f"about {gigabytes(full)}"))
    return [*facts, Fact(section, "disk", f"about {gigabytes(weights)} for the edited model")]


def _bytes(model: Model) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.hf.parameters())


def _machine(model: Model, folder: Path) -> list[Fact]:
    section = "Machine"
    facts = [Fact(section, "processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch")]
    free = _free_memory()
    if free is not None:
        facts.append(Fact(section, "free memory", gigabytes(free)))
    if model.device.type == "cuda":
        left, whole = torch.cuda.mem_get_info(model.device)
        card = torch.cuda.get_device_name(model.device)
        facts.append(Fact(section, "free memory of the card", f"{gigabytes(left)} of {gigabytes(whole)} ({card})"))
    for name, place in (("free disk here", folder), ("free disk of the cache", cache_folder())):
        left = shutil.disk_usage(place).free
        trap = "too little for the edited model" if left < 2 * _bytes(model) else ""
        facts.append(Fact(section, name, f"{gigabytes(left)} ({place})", trap))
    return facts + [Fact("Versions", name, version) for name, version in versions().items()]


def _free_memory() -> float | None:
    """Bytes that new programs can have, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
