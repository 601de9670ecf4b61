"""Work of whole benchmarks: tokens and forwards that our engine runs, beside the naive ones and the least that gives the same scores.

    OMP_NUM_THREADS=1 python bench/benchmarks.py               # --benchmarks, --share, --families, --model
    OMP_NUM_THREADS=1 python bench/benchmarks.py --race 24     # and BBQ against lm-eval on a real model, in the same run

Tokens are counted with the real tokenizers of the built-in models and a network of one narrow layer, since they do not depend on the
weights. *Naive* is one forward for each request: what a loop over options or masked places runs. *Least* is what no exact scorer can do
without: each distinct beginning of a causal input once, each distinct masked input once; of SEAT, which reads states, each distinct text
once. With `--model NAME` the same is timed on a real model, ours alone.

The exit code is 1 where a benchmark runs more than 1.1 times the least, where lm-eval's scores differ, or where BBQ is not 4 times as fast
as lm-eval's best batch size with its 12 options or not twice as fast with 3 answers (processor time; questions in fours, as in the file).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

if TYPE_CHECKING:
    from fairforget.models.model import Model
    from fairforget.scoring import Request

CAUSAL = ("crows-pairs", "stereoset", "bbq", "bbq:lm-eval", "winogender", "seat")
MASKED = ("crows-pairs", "stereoset", "bbq", "winogender", "seat")
SHARES = {("bbq", "masked"): 0.05, ("stereoset", "masked"): 0.1}
"""Parts of what is long: for each token of an answer a masked model reads the whole question."""
FASTER = {12: 4.0, 3: 2.0}
"""How many times as fast as lm-eval BBQ is to be, by its options."""
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

    share = min(share, SHARES.get((name, model.family), 1.0))
    benchmark = resolve(name, {"share": share} if share < 1 else {})
    items = benchmark.measured_items(model.family, "all")
    requests = [request for group in benchmark.requests(items, model) for request in group]
    scorer = Scorer(model, store=False)
    start, processor = time.perf_counter(), time.process_time()
    if requests:
        fed = inputs(requests)
        scorer.score(requests, name)
        counts = scorer.counts
        asked, naive, fewest = len(requests), sum(map(len, fed)), least(fed, model.family == "causal")
        ran, padded, forwards = counts.tokens, counts.padded, counts.forwards
    else:
        asked, naive, fewest = texts_of(benchmark, items, model)
        with embedded(model) as seen:
            benchmark.measure_items(scorer, items, name)
        ran, padded, forwards = sum(real for real, _ in seen), sum(whole for _, whole in seen), len(seen)
    wall, processor = time.perf_counter() - start, time.process_time() - processor
    return [
        name if share == 1 else f"{name}, {share:.0%}", model.family, f"{len(items):,}", f"{asked:,}", f"{naive:,}", f"{fewest:,}",
        f"{ran:,}", f"{ran / fewest:.3f}", f"{padded / ran:.3f}", f"{forwards:,}", f"{wall:.0f}", f"{processor:.0f}",
    ]


def texts_of(benchmark: Any, items: Sequence[Any], model: Model) -> tuple[int, int, int]:
    """Texts of SEAT as its tests name them, their tokens, and the tokens of the distinct ones."""
    tests = {test.name: test for test in benchmark._tests()}
    texts = [text for name in dict.fromkeys(item.groups[0] for item in items) for text in (*tests[name].a, *tests[name].b)]
    texts += [item.texts[0] for item in items]
    length = {text: len(model.sequence_ids(text)) for text in texts}
    return len(texts), sum(length[text] for text in texts), sum(length.values())


@contextlib.contextmanager
def embedded(model: Model) -> Iterator[list[tuple[int, int]]]:
    """(tokens, tokens with padding) of every forward while it runs."""
    seen: list[tuple[int, int]] = []

    def count(_module: Any, arguments: tuple[Any, ...]) -> None:
        ids = arguments[0]
        seen.append((int((ids != model.pad_id).sum()), ids.numel()))

    handle = model.hf.get_input_embeddings().register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


def race(asked: int, name: str, repeats: int) -> list[str]:
    """BBQ by our engine and by lm-eval on the same questions and weights; returns what is wrong, in sentences."""
    import scoring

    from fairforget.models import load

    model = load(name, device="cpu", dtype="float32")
    rows = scoring.questions(Path(os.environ.get("FAIRFORGET_DATA", ".")) / "bbq", asked, 4)
    wrong: list[str] = []
    print(f"\nBBQ on {name}, {asked} questions in fours, medians of {repeats} runs in turns\n")
    scoring.print_rows([list(scoring.COLUMNS), ["---"] * len(scoring.COLUMNS)])
    for options, wanted in FASTER.items():
        case = scoring.choice_case(model, rows, options, "in fours", (1, 32))
        scoring.measure(case, model.hf, repeats)
        table, differing = scoring.rows_of(case)
        scoring.print_rows(table)
        wrong += differing
        own, *peers = (statistics.median(runner.processor) for runner in case.runners)
        if min(peers) < wanted * own:
            wrong.append(f"BBQ with {options} options is {min(peers) / own:.2f} times as fast as lm-eval, and {wanted:g} are wanted.")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", help="names with commas; by default those that the least work is known for")
    parser.add_argument("--families", default="causal,masked")
    parser.add_argument("--share", type=float, default=1.0, help="share of the clusters of each benchmark")
    parser.add_argument("--model", help="a model to time, in place of the narrow network")
    parser.add_argument("--race", type=int, default=0, metavar="N", help="also race lm-eval on N questions of BBQ, a multiple of 4")
    parser.add_argument("--racer", default="smollm2-135m", help="model of the race (default: the built-in causal one)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the race (default 3)")
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
    wrong = [f"A benchmark runs {worst:.3f} times the least tokens, and 1.1 are allowed."] if worst > 1.1 else []
    if arguments.race:
        wrong += race(arguments.race, arguments.racer, arguments.repeats)
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
