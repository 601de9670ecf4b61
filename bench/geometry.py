"""Statistics of collapse beside a dense one-hot implementation, and what (U)NC3 adds to a training step, in one run.

The dense way is the released one: a one-hot table of tokens x classes, class means by its product with the states, and rows of all classes
(rhubarbwu/linguistic-collapse, Xujxyang/Fairness-NC). The run fails if the two give other means or another (U)NC3. What the figures mean:
bench/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median processor seconds; the first call is not counted."""
    work()
    taken: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def moments(tokens: int, classes: int, width: int, words: int, repeats: int) -> None:
    """Print seconds of a batch of both ways, for the moments of all classes and of a list of words; ends the run where they differ."""
    import torch

    from fairforget.geometry import ClassMoments
    from fairforget.geometry.collapse import self_duality

    torch.manual_seed(0)
    states, matrix = torch.randn(tokens, width), torch.randn(classes, width)
    # frequencies fall with rank, as those of words do
    labels = torch.multinomial(1 / torch.arange(1.0, classes + 1), tokens, replacement=True)
    listed = labels.unique()[:words]
    place = torch.full((classes,), -1)
    place[listed] = torch.arange(len(listed))

    def dense() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        one_hot = torch.nn.functional.one_hot(labels, classes).to(states.dtype)
        counts = one_hot.sum(dim=0)
        means = one_hot.T @ states / counts.clamp(min=1).unsqueeze(1)
        squares = (states - one_hot @ means).square().sum(dim=1)
        return means, one_hot.T @ squares / counts.clamp(min=1), counts

    # made once for a stream of batches
    every, some = ClassMoments(classes, width), ClassMoments(len(listed), width)

    def all_classes() -> None:
        every.add(states, labels)

    def listed_only() -> None:
        own = place[labels]
        some.add(states[own >= 0], own[own >= 0])

    means, variances, _ = dense()
    all_classes()
    listed_only()
    pairs = ((every.means, means), (some.means, means[listed]), (every.variances, variances), (some.variances, variances[listed]))
    for found, expected in pairs:
        if not torch.allclose(found.float(), expected, rtol=1e-3, atol=1e-4):
            raise SystemExit("The two ways give other moments.")
    spread = self_duality(some.means, matrix[listed].double()).std()
    if not torch.isclose(spread, self_duality(means[listed].double(), matrix[listed].double()).std(), rtol=1e-4):
        raise SystemExit("The two ways give another (U)NC3.")
    slow, quick, quicker = (median_seconds(work, repeats) for work in (dense, all_classes, listed_only))
    print(f"{tokens} tokens x {classes} classes x {width} dimensions, processor seconds")
    print(f"  dense one-hot    {slow:8.4f}")
    print(f"  all classes      {quick:8.4f}   {slow / quick:6.1f} x")
    print(f"  {len(listed):4} words       {quicker:8.4f}   {slow / quicker:6.1f} x")


def step(layers: int, width: int, rows: int, length: int, words: int, repeats: int) -> None:
    """Print seconds of a training step with and without the term, in turns."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from fairforget.models import Model
    from fairforget.objectives import Collapse, CrossEntropy
    from fairforget.training.trainer import _Composition

    torch.manual_seed(0)
    config = BertConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, intermediate_size=4 * width)
    tokenizer = SimpleNamespace(mask_token_id=103, pad_token_id=0, eos_token_id=None)
    model = Model(BertForMaskedLM(config), tokenizer, family="masked", name="random", source="random")  # type: ignore[arg-type]
    model.hf.train()
    ids = torch.randint(1000, 30_000, (rows, length))
    labels = torch.where(torch.rand(rows, length) < 0.15, ids, -100)
    listed = labels[labels > 0].unique()[:words].tolist()
    batches = {"forget": {"ids": ids, "mask": torch.ones_like(ids), "labels": labels}}
    optimiser = torch.optim.AdamW(model.hf.parameters(), lr=1e-6)

    def step_of(*terms: object) -> Callable[[], None]:
        for term in terms:
            term.prepare(model)  # type: ignore[attr-defined]
        composition = _Composition(model, terms)  # type: ignore[arg-type]

        def work() -> None:
            optimiser.zero_grad()
            composition(batches, [float(term.count(batches["forget"])) for term in terms]).backward()  # type: ignore[attr-defined]
            optimiser.step()

        return work

    ways = {"without": step_of(CrossEntropy())}
    for gradient in ("weights", "features", "both"):
        ways[gradient] = step_of(CrossEntropy(), Collapse(listed, 100.0, gradient=gradient))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, work in ways.items():
            start = time.process_time()
            work()
            if turn:
                taken[name].append(time.process_time() - start)
    base = statistics.median(taken["without"])
    receivers = [name for name in ways if name != "without"]
    alone = {name: median_seconds(term_alone(model, batches["forget"], listed, name), 5 * repeats) for name in receivers}
    print(f"training step, {layers} layers of {width}, {rows} x {length} tokens, {len(listed)} words, processor seconds")
    for name, seconds in taken.items():
        ratios = [own / other - 1 for own, other in zip(seconds, taken["without"], strict=True)]
        print(f"  {name:10} {statistics.median(seconds):8.3f}   {100 * (statistics.median(seconds) / base - 1):+6.2f} %"
              f"   (median of turns {100 * statistics.median(ratios):+.2f} %)")
    print("the term alone on states that are there, its backward to them and to the rows included")
    for name, own in alone.items():
        print(f"  {name:10} {own:8.4f}   {100 * own / base:6.2f} % of a step")


def term_alone(model: Any, batch: Any, words: list[int], gradient: Any) -> Callable[[], None]:
    """What the term takes where the body's states are known, as they are in a step: forward and backward."""
    from fairforget.objectives import Collapse

    term = Collapse(words, 100.0, gradient=gradient)
    term.prepare(model)
    states = model.hidden(batch["ids"], batch["mask"]).detach().requires_grad_()

    def work() -> None:
        with term.step(model):
            assert term._shared is not None
            term._shared.append((batch["ids"], states))
            term.sum(model, batch).backward()

    return work


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=30_522)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--words", type=int, default=150)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    moments(options.tokens, options.classes, options.width, options.words, options.repeats)
    step(options.layers, options.width, options.rows, options.length, options.words, options.repeats)


if __name__ == "__main__":
    main()
