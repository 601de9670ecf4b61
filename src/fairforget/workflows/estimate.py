"""What scoring benchmarks will take: tokens counted, speed measured on a sample, memory as it stands after it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fairforget.benchmarks import Benchmark
from fairforget.models import Model
from fairforget.progress import display
from fairforget.report.number_words import duration
from fairforget.scoring import ContinuationRequest, MaskedRequest, Request, Scorer
from fairforget.scoring.generation import Decoding, Generator
from fairforget.scoring.trie import build_trie

WRITTEN_PROMPTS, PROMPT_TOKENS, WRITTEN_TOKENS = 16, 32, 16
"""The speed of writing is read off so many prompts of so many tokens, each continued by so many."""
MEASURED_SECONDS, MEASURED_TOKENS, LONGEST_SECONDS = 1.0, 1000, 20.0
"""The speed of scoring is read off a sample that took so long and held so many tokens, or was too long already."""


@dataclass(frozen=True)
class Estimate:
    """What scoring takes.

    Attributes:
        tokens: that run through the model for each benchmark and part.
        speed: tokens per second, measured.
        memory: bytes, the peak so far.
        uncounted: names of benchmarks whose tokens are known to them alone (lm-eval, geometry, fine-tuning).
        written: tokens that benchmarks of generation write at most, by their names, for each part.
        writing_speed: tokens written per second, measured; 0 where nothing is written.
    """

    tokens: Mapping[tuple[str, str], int]
    speed: float
    memory: float
    uncounted: tuple[str, ...]
    written: Mapping[str, int] = field(default_factory=dict[str, int])
    writing_speed: float = 0.0

    def part(self, part: str) -> int:
        """Tokens of all benchmarks on one part."""
        return sum(count for (_, own), count in self.tokens.items() if own == part)

    def sentence(self, tokens: float) -> str:
        """Time and memory of so many tokens in words.

        Args:
            tokens: of all that will be scored.
        """
        words = (
            f"Estimate: at most {duration(tokens / self.speed)} of scoring ({tokens:,.0f} tokens at {self.speed:,.0f} a second, measured), "
            f"about {gigabytes(self.memory)} of memory."
        )
        if self.written:
            named = ", ".join(f"{name} {count:,}" for name, count in self.written.items())
            time_written = duration(sum(self.written.values()) / self.writing_speed)
            words += (
                f" Beside it the model writes, about {time_written} on each part ({self.writing_speed:,.0f} tokens a second, measured; "
                f"tokens at most: {named})."
            )
        return words + (f" Not in it, since only they know what they will read: {', '.join(self.uncounted)}." if self.uncounted else "")


def estimate(model: Model, benchmarks: Sequence[Benchmark], parts: Sequence[str], seed: int = 0) -> Estimate:
    """Count the tokens of benchmarks and measure the speed of scoring on a sample of them, which takes seconds.

    Args:
        model: that will be scored.
        benchmarks: what will be measured.
        parts: on which parts.
        seed: of the sample.

    Raises:
        UsageError: a benchmark cannot score this family.
        DataError: data that are missing or damaged.
    """
    requests = {(benchmark.name, part): _requests(model, benchmark, part) for benchmark in benchmarks for part in parts}
    counted = {key: _tokens(model, found) for key, found in requests.items()}
    with display(quiet=True):
        speed = _speed(model, [request for found in requests.values() for request in found], seed)
    written: dict[str, int] = {}
    for benchmark in benchmarks:
        for part in parts:
            read, new = benchmark.tokens_beside(benchmark.measured_items(model.family, part), model)
            counted[benchmark.name, part] += read
            if new:
                written[benchmark.name] = max(new, written.get(benchmark.name, 0))
    uncounted = [benchmark.name for benchmark in benchmarks if not any(counted[benchmark.name, part] for part in parts)]
    with display(quiet=True):
        writing = _writing_speed(model, seed) if written else 0.0
    return Estimate(counted, speed, peak(model), tuple(uncounted), written, writing)


def run_tokens(found: Estimate, target: str, cost: str | None, points: int, bisections: int) -> int:
    """Tokens of a whole debiasing run: base on both parts, edited model on ``test``, and every strength that the search may try.

    Args:
        found: of both parts.
        target: name of the benchmark that steers.
        cost: name of the one that the budget is kept by.
        points: strengths at which the target is measured.
        bisections: of the search for the largest strength within the budget.
    """
    search = (points - 1) * found.tokens[target, "select"]
    if cost is not None:
        search += (1 + bisections + points - 2) * found.tokens[cost, "select"]
    return found.part("select") + 2 * found.part("test") + search


def peak(model: Model) -> float:
    """Most bytes that this process has held so far, on the model's device."""
    if model.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(model.device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gigabytes(size: float) -> str:
    """Bytes as "1.23 GB"."""
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def _requests(model: Model, benchmark: Benchmark, part: str) -> list[Request]:
    return [request for requests in benchmark.requests(benchmark.measured_items(model.family, part), model) for request in requests]


def _tokens(model: Model, requests: Sequence[Request]) -> int:
    """Tokens that run through the model for requests: distinct inputs once, shared prefixes once."""
    causal = [request for request in requests if isinstance(request, ContinuationRequest)]
    if causal:
        return sum(root.subtree_tokens() for root in build_trie(list(dict.fromkeys(causal)), share=model.shares_prefixes))
    return sum(len(ids) for ids in {request.ids for request in requests if isinstance(request, MaskedRequest)})


def _writing_speed(model: Model, seed: int) -> float:
    """Tokens a second that the model writes after prompts of random tokens."""
    generator = np.random.default_rng(seed)
    rows = next(model.hf.get_input_embeddings().parameters()).shape[0]  # a tokenizer may have more tokens than the model
    length = max(1, min(PROMPT_TOKENS, model.max_length - WRITTEN_TOKENS - len(model.prefix)))
    prompts = [[*model.prefix, *row] for row in generator.integers(0, rows, (WRITTEN_PROMPTS, length)).tolist()]
    writer = Generator(model, Decoding(max_new_tokens=WRITTEN_TOKENS), store=False)
    writer.generate(prompts[:2])  # as in scoring, the first pays for allocations
    start = time.perf_counter()
    answers = writer.generate(prompts)
    seconds = time.perf_counter() - start
    return sum(max(1, len(model.token_ids(answer.text))) for (answer,) in answers) / max(seconds, 1e-9)


def _speed(model: Model, requests: Sequence[Request], seed: int) -> float:
    """Tokens per second of scoring, on growing samples until one has taken long enough to be trusted."""
    order = np.random.default_rng(seed).permutation(len(requests))
    size = 8
    Scorer(model, store=False).score([requests[index] for index in order[:2]])  # the first forward pays for allocations and kernels
    while True:
        scorer = Scorer(model, store=False)
        start = time.perf_counter()
        scorer.score([requests[index] for index in order[:size]])
        seconds = time.perf_counter() - start
        enough = seconds > MEASURED_SECONDS and scorer.counts.tokens >= MEASURED_TOKENS
        if enough or seconds > LONGEST_SECONDS or size >= len(requests):
            return max(scorer.counts.tokens / max(seconds, 1e-9), 1e-9)
        size *= 4
