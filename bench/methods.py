"""One PCGU update on a BERT-base shape: ours beside a straightforward loop over vectors, in seconds and in memory, in one run.

The network is random: time and memory do not depend on what the weights are. Both ways get the same pairs, and the run fails if they choose
other vectors or end in other weights. Memory is the highest resident size of a process of its own, in copies of the parameters above the
loaded network. `--cases strengths` is another measure: a sweep over the strengths of an edit beside scorings of its base. What the figures
mean: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

SHARE = 0.2
LEARNING_RATE = 1e-3


def network(layers: int):
    """A random BERT of base width, as much of a model as the gradients look at, and pairs of random tokens with one of them masked."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    from fairforget.methods._pcgu_gradients import PairBatch

    torch.manual_seed(0)
    hf = BertForPreTraining(BertConfig(num_hidden_layers=layers)).eval()
    model = SimpleNamespace(
        hf=hf, family="masked", hidden=lambda ids, mask: hf.bert(ids, attention_mask=mask)[0], head=hf.cls.predictions
    )

    def pairs(count: int, length: int):
        ids = torch.randint(1000, 30_000, (count, length))
        sides = []
        for _ in range(2):
            labels = torch.full_like(ids, -100)
            labels[:, length // 2] = torch.randint(1000, 30_000, (count,))
            sides.append({"ids": ids.clone(), "mask": torch.ones_like(ids), "labels": labels})
            sides[-1]["ids"][:, length // 2] = 103
        return PairBatch(sides[0], sides[1], torch.full((count,), 1 / count))

    return model, pairs


def both_gradients(model, batch, partition) -> list[dict]:
    """Gradients of both sides by plain backward passes, both kept."""
    from fairforget.methods._pcgu_gradients import preferences

    found = []
    for half in batch.halves():
        (preferences(model, half, "log-probability") * batch.weights).sum().backward()
        found.append({tensor.name: tensor.parameter.grad for tensor in partition if tensor.parameter.grad is not None})
        model.hf.zero_grad(set_to_none=True)
    return found


def loop(partition, disadvantaged: dict, advantaged: dict) -> list[int]:
    """The straightforward way of the released codes: a cosine and a list entry for every vector, then a step for each chosen one."""
    import torch

    scored: list[tuple[float, int, object, object]] = []
    for tensor in partition:
        if tensor.name not in advantaged:
            continue
        lower, upper = (tensor.rows(gradients[tensor.name]) for gradients in (disadvantaged, advantaged))
        for number in range(tensor.count):
            if bool(lower[number].any()) and bool(upper[number].any()):
                value = torch.nn.functional.cosine_similarity(lower[number], upper[number], dim=0)
                scored.append((float(value), tensor.first + number, tensor, upper[number]))
    scored.sort(key=lambda entry: entry[:2])
    chosen = scored[: round(SHARE * partition.count)]
    with torch.no_grad():
        for _, number, tensor, step in chosen:
            tensor.rows(tensor.parameter)[number - tensor.first] -= LEARNING_RATE * step
    return sorted(number for _, number, _, _ in chosen)


def apply(changes, partition, sums, present, direction: dict) -> list[int]:
    """Ours: rank all vectors at once, then a step per tensor."""
    import torch

    from fairforget.methods._pcgu_ranking import similarities, smallest

    chosen = smallest(similarities(sums, present, skip_zero_gradient=True), round(SHARE * partition.count))
    selected = torch.zeros(partition.count, dtype=torch.bool)
    selected[chosen] = True
    for tensor in partition:
        numbers = selected[tensor.span].nonzero().flatten()
        if len(numbers):
            step = tensor.rows(direction.pop(tensor.name))[tensor.places(numbers)]
            changes.add(tensor, numbers, step * -LEARNING_RATE)
    return sorted(chosen.tolist())


def vector_work(partition, disadvantaged: dict, advantaged: dict) -> list[int]:
    """Ours from the same two gradients as the loop has, so that the passes are left out of the comparison."""
    import torch

    from fairforget.methods._pcgu_changes import VectorChanges
    from fairforget.methods._pcgu_vectors import vector_sums

    sums, present = torch.zeros(3, partition.count), torch.zeros(partition.count, dtype=torch.bool)
    for tensor in partition:
        if tensor.name in advantaged:
            sums[:, tensor.span] = vector_sums(disadvantaged[tensor.name], advantaged[tensor.name], tensor.along)
            present[tensor.span] = True
    return apply(VectorChanges(partition), partition, sums, present, dict(advantaged))


def timed(work: Callable[[], list[int]]) -> tuple[float, list[int]]:
    """Processor seconds of some work, and what it gave."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def speed(layers: int, count: int, length: int, repeats: int) -> None:
    """Print processor seconds of both ways; ends the run where they differ in what they do."""
    from fairforget.edits import copy_parameters, restore_parameters
    from fairforget.methods._pcgu_changes import VectorChanges
    from fairforget.methods._pcgu_gradients import contrast
    from fairforget.methods._pcgu_vectors import VectorPartition

    model, pairs = network(layers)
    batch, partition = pairs(count, length), VectorPartition(model.hf)
    before = copy_parameters(model.hf)

    def ours() -> list[int]:
        found = contrast(model, partition, [batch], update="advantaged", preference="log-probability")
        return apply(VectorChanges(partition), partition, found.sums, found.present, found.direction)

    def looped() -> list[int]:
        return loop(partition, *both_gradients(model, batch, partition))

    gradients = both_gradients(model, batch, partition)
    works = {
        "vectors": (lambda: vector_work(partition, *gradients), lambda: loop(partition, *gradients)), "whole update": (ours, looped),
    }
    print(f"{partition.count:,} vectors, {sum(value.numel() for value in before.values()):,} parameters, {count} pairs of {length} tokens")
    for name, ways in works.items():
        seconds: list[list[float]] = [[], []]
        results: list[tuple[list[int], dict]] = []
        for _ in range(repeats):
            results.clear()
            for place, way in enumerate(ways):
                took, chosen = timed(way)
                seconds[place].append(took)
                results.append((chosen, copy_parameters(model.hf)))
                restore_parameters(model.hf, before)
        (first, mine), (second, theirs) = results
        if len(set(first) ^ set(second)) > 1e-3 * len(first):  # cosines that are equal up to rounding may swap places at the threshold
            sys.exit(f"{name}: the two ways choose other vectors.")
        largest = max(float((mine[key] - theirs[key]).abs().max()) for key in mine) if first == second else float("nan")
        if largest > 1e-6:
            sys.exit(f"{name}: the two ways end in weights that differ by {largest}.")
        own, other = (statistics.median(values) for values in seconds)
        print(f"{name}: ours {own:.2f} s, loop {other:.2f} s of the processor, ratio {other / own:.1f}; largest difference {largest:.1e}")
        del results, mine, theirs


def peak_of(way: str, layers: int, count: int, length: int) -> None:
    """In a process of its own: print the resident size before an update's two passes and its highest in them, bytes."""
    from fairforget.methods._pcgu_gradients import contrast
    from fairforget.methods._pcgu_vectors import VectorPartition

    model, pairs = network(1)
    contrast(model, VectorPartition(model.hf), [pairs(1, length)], update="advantaged", preference="log-probability")  # loads the libraries
    model, pairs = network(layers)
    batch, partition = pairs(count, length), VectorPartition(model.hf)
    size = sum(tensor.parameter.numel() * 4 for tensor in partition)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident size starts anew from the present one
    loaded = resident("VmRSS")
    if way == "ours":
        contrast(model, partition, [batch], update="advantaged", preference="log-probability")
    else:
        both_gradients(model, batch, partition)
    print(json.dumps({"loaded": loaded, "peak": resident("VmHWM"), "parameters": size}))


def resident(field: str) -> int:
    """Resident size of this process, now (VmRSS) or at its highest (VmHWM), bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def memory(layers: int, count: int, length: int) -> None:
    """Print the peaks of both ways in copies of the parameters."""
    for way in ("ours", "both gradients kept"):
        sizes = [str(number) for number in (layers, count, length)]
        command = [sys.executable, __file__, "--peak", way, "--layers", sizes[0], "--pairs", sizes[1], "--length", sizes[2]]
        # What is freed goes back to the system at once, so that the resident size is what is held.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"memory, {way}: {(found['peak'] - found['loaded']) / found['parameters']:.2f} copies of the parameters beside them")


def scorer_of(items: int):
    from fairforget.benchmarks import resolve
    from fairforget.scoring import Scorer

    benchmark = resolve("starter")

    def score(model) -> list[float]:
        chosen = benchmark.items(model.family, "all")[:items]
        asked = benchmark.requests(chosen, model)
        values = iter(Scorer(model, store=False).score([request for item in asked for request in item]))
        return [float(sum(next(values).sum() for _ in item)) for item in asked]

    return score


LARGEST_DIFFERENCE = 5e-4
"""Nats per item by which a strength put on and the same one merged may differ in float32."""


def sweep(model, edit, strengths: list[float], score, repeats: int) -> dict[str, float]:
    """Median processor seconds of the base's scoring, of each further strength in both ways, and of putting the edit on and off alone."""
    from fairforget.edits import merged
    from fairforget.models import load

    taken: dict[str, list[float]] = {"base": [], "ours": [], "on and off": [], "merged": []}
    largest = 0.0
    score(model)  # an uncounted run
    for _ in range(repeats):
        for strength in strengths:
            start = time.process_time()
            score(model)
            taken["base"].append(time.process_time() - start)
            start = time.process_time()
            with edit.at(strength).applied(model):
                middle = time.process_time()
                ours = score(model)
                end = time.process_time()
            taken["ours"].append(time.process_time() - start)
            taken["on and off"].append(middle - start + time.process_time() - end)
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                other = load(merged(model, edit.at(strength), Path(folder) / "model"), device="cpu")
                peer = score(other)
                taken["merged"].append(time.process_time() - start)
            largest = max(largest, *(abs(one - two) for one, two in zip(ours, peer, strict=True)))
    assert largest < LARGEST_DIFFERENCE, f"the two ways differ by {largest} nats"
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def strengths(name: str, items: int, steps: int, repeats: int) -> None:
    """Print what a further λ costs: an edit trains once, and a sweep over its strengths scores and no more."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    from transformers.utils import logging

    from fairforget.data.training import training_source
    from fairforget.methods import TaskVector
    from fairforget.models import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = load(name, device="cpu")
    score = scorer_of(items)
    counted: list[int] = []
    register_optimizer_step_pre_hook(lambda *_: counted.append(1))
    print(f"{name}, {items} items, {steps} steps, processor seconds, median of {repeats} x 3 strengths")
    headings = (
        "tuning", "fit", "base", "a further λ", "of it, on and off", "merged, loaded, scored", "λ / base", "merged / λ", "steps taken"
    )
    print(f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}")
    for tuning, rate in (("lora", 5e-4), ("full", 1e-5)):
        start = time.process_time()
        edit = TaskVector(tuning=tuning, learning_rate=rate, steps=steps, contrast=False).fit(model, training_source("starter"))
        fitted, before = time.process_time() - start, len(counted)
        seconds = sweep(model, edit, [0.3, 0.6, 1.0], score, repeats)
        assert len(counted) == before, "something was trained in the sweep"
        ours = seconds["ours"]
        figures = (
            f"{fitted:.1f}", f"{seconds['base']:.2f}", f"{ours:.2f}", f"{seconds['on and off']:.3f}", f"{seconds['merged']:.2f}",
            f"{ours / seconds['base']:.2f}", f"{seconds['merged'] / ours:.2f}", str(len(counted) - before),
        )
        print(f"| {tuning} | {' | '.join(figures)} |", flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", default="pcgu,strengths")
    parser.add_argument("--model", default="minilm-mlm", help="strengths: the model")
    parser.add_argument("--items", type=int, default=20, help="strengths: items of the starter set")
    parser.add_argument("--steps", type=int, default=6, help="strengths: optimiser steps of the edit")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak_of(options.peak, options.layers, options.pairs, options.length)
        return
    if "pcgu" in options.cases:
        speed(options.layers, options.pairs, options.length, options.repeats)
        memory(options.layers, options.pairs, options.length)
    if "strengths" in options.cases:
        strengths(options.model, options.items, options.steps, options.repeats)


if __name__ == "__main__":
    main()
