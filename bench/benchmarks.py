"""Work of whole benchmarks: tokens and forwards that our engine runs, beside the naive ones and the least that gives the same scores.

    OMP_NUM_THREADS=1 python bench/benchmarks.py               # --benchmarks, --share, --families, --model

Tokens are counted with the real tokenizers of the built-in models and a network of one narrow layer, since they do not depend on the
weights. *Naive* is one forward for each request: what a loop over options or masked places runs. *Least* is what no exact scorer can do
without: each distinct beginning of a causal input once, each distinct masked input once. With `--model NAME` the same is timed on a real
model, ours alone; the race against lm-eval, at equal scores, is bench/scoring.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

if TYPE_CHECKING:
    from fairforget.models.model import Model
    from fairforget.scoring import Request

CAUSAL = ("crows-pairs", "stereoset", "bbq", "bbq:lm-eval", "winogender")
MASKED = ("crows-pairs", "stereoset:intrasentence", "winogender")
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def narrow(family: str) -> Model:
    """A network of one narrow layer with the tokenizer of a built-in model."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

    from fairforget.models import Model, load

    whole = load("minilm-mlm" if family == "masked" else "smollm2-135m")
    size = whole.hf.config.vocab_size
    torch.manual_seed(0)
    if family == "masked":
        network = BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=512, **SHAPE))
    else:
        network = LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=8192, num_key_value_heads=1, **SHAPE))
    return Model(network.eval(), whole.tokenizer, family=whole.family, name=f"narrow {family}", source="narrow", prefix_id=whole.prefix_id)


def inputs(requests: Iterable[Request]) -> list[tuple[int, ...]]:
    """What must be fed for each request; nothing is read after the last token of a continuation."""
    from fairforget.scoring import ContinuationRequest

    return [
        (request.context + request.continuation)[:-1] if isinstance(request, ContinuationRequest) else request.ids for request in requests
    ]


def least(fed: Sequence[tuple[int, ...]], causal: bool) -> int:
    """Tokens that no exact scorer can do without."""
    distinct = sorted(set(fed))
    if not causal:
        return sum(map(len, distinct))
    total, before = 0, tuple[int, ...]()
    for tokens in distinct:
        differing = (place for place, (one, other) in enumerate(zip(before, tokens, strict=False)) if one != other)
        total += len(tokens) - next(differing, min(len(before), len(tokens)))
        before = tokens
    return total


def measure(name: str, model: Model, share: float) -> list[str]:
    """A row of the table."""
    from fairforget.benchmarks import resolve
    from fairforget.scoring import Scorer

    benchmark = resolve(name, {"share": share} if share < 1 else {})
    items = benchmark.measured_items(model.family, "all")
    requests = [request for group in benchmark.requests(items, model) for request in group]
    fed = inputs(requests)
    scorer = Scorer(model, store=False)
    start, processor = time.perf_counter(), time.process_time()
    scorer.score(requests, name)
    wall, processor = time.perf_counter() - start, time.process_time() - processor
    fewest = least(fed, model.family == "causal")
    counts = scorer.counts
    return [
        name, model.family, f"{len(items):,}", f"{len(requests):,}", f"{sum(map(len, fed)):,}", f"{fewest:,}", f"{counts.tokens:,}",
        f"{counts.tokens / fewest:.3f}", f"{counts.padded / counts.tokens:.3f}", f"{counts.forwards:,}", f"{wall:.0f}", f"{processor:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", help="names with commas; by default those that the least work is known for")
    parser.add_argument("--families", default="causal,masked")
    parser.add_argument("--share", type=float, default=1.0, help="share of the clusters of each benchmark")
    parser.add_argument("--model", help="a model to time, in place of the narrow network")
    arguments = parser.parse_args()
    from fairforget.models import load

    head = [
        "benchmark", "family", "items", "requests", "naive tokens", "least", "run", "run / least", "padded / run", "forwards", "wall s",
        "cpu s",
    ]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head), flush=True)
    models = [load(arguments.model)] if arguments.model else [narrow(family) for family in arguments.families.split(",")]
    worst = 0.0
    for model in models:
        names = arguments.benchmarks.split(",") if arguments.benchmarks else (CAUSAL if model.family == "causal" else MASKED)
        for name in names:
            row = measure(name, model, arguments.share)
            worst = max(worst, float(row[7]))
            print("| " + " | ".join(row) + " |", flush=True)
    sys.exit(1 if worst > 1.1 else 0)


if __name__ == "__main__":
    main()
