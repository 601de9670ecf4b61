"""Scores and seconds: the scoring engine of fairforget beside lm-eval's HFLM and beside a plain loop of masked forwards, in one run.

Every case gives the same texts to every runner, compares all scores item by item, and times the runners in turns (ours, peers, ours,
peers, ...), tokenisation included. Scores are not taken from a store. What the figures mean and how they were taken: bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LARGEST_DIFFERENCE = 5e-4
"""Nats per item by which two runners may differ in float32."""

UNKNOWN_ANSWERS = (
    "Unknown", "Cannot answer", "Can't be determined", "Cannot be determined", "Can't answer", "Not known", "Not enough info",
    "Not enough information", "Not answerable", "Undetermined",
)
"""The ten ways in which lm-eval's BBQ task lets a model say that it does not know."""


@dataclass
class Runner:
    """One way of scoring a case."""

    name: str
    run: Callable[[], list[float]]
    scores: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    tokens: int = 0
    forwards: int = 0


@dataclass
class Case:
    """The same items for several runners; the first is ours."""

    name: str
    items: int
    runners: list[Runner]


# data -------------------------------------------------------------------------------------------------------------------------


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` row numbers spread evenly over `count` rows."""
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


def pairs(count: int):
    from fairforget.data.crows_pairs import load_crows_pairs

    rows = load_crows_pairs()
    return [rows[index] for index in evenly(len(rows), count)]


def questions(folder: Path, count: int, block: int) -> list[tuple[str, list[str], list[str]]]:
    """(context, twelve answers, three answers) of BBQ questions.

    Upstream writes four questions in a row about one scene: without and with the sentences that settle it, negative and not. `block`
    of every four are taken, so 4 keeps what a run over the whole file shares between questions, and 1 keeps only what the answers share.
    """
    rows = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows.append([json.loads(line) for line in lines])
    blocks = [category[start : start + 4] for category in rows for start in range(0, len(category) - 3, 4)]
    found = []
    for number, index in enumerate(evenly(len(blocks), count // block)):
        # A single question is each of the four kinds in turn.
        for row in blocks[index] if block == 4 else blocks[index][number % 4 :][:1]:
            three = [row["ans0"], row["ans1"], row["ans2"]]
            unknown = next(place for place in range(3) if "unknown" in row["answer_info"][f"ans{place}"])
            twelve = [answer for place, answer in enumerate(three) if place != unknown] + list(UNKNOWN_ANSWERS)
            found.append((f"{row['context']}\n\nQ: {row['question']}\nA:", twelve, three))
    return found


# counting ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def counted(hf, runner: Runner) -> Iterator[None]:
    """Add up the forwards and tokens (padding included) that a network runs, whoever calls it."""

    def count(_module, arguments) -> None:
        runner.tokens += arguments[0].numel()
        runner.forwards += 1

    runner.tokens = runner.forwards = 0
    handle = hf.get_input_embeddings().register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def measure(case: Case, hf, repeats: int) -> None:
    """Time all runners of a case in turns, after one uncounted run of ours on the same texts."""
    case.runners[0].run()
    for _ in range(repeats):
        for runner in case.runners:
            with counted(hf, runner):
                wall, processor = time.perf_counter(), time.process_time()
                runner.scores = runner.run()
                runner.wall.append(time.perf_counter() - wall)
                runner.processor.append(time.process_time() - processor)


# runners ----------------------------------------------------------------------------------------------------------------------


def ours(model, requests: Callable[[], list[list]]) -> Runner:
    """Our engine: each item's score is the sum over the values of its requests."""

    def run() -> list[float]:
        from fairforget.scoring import Scorer

        asked = requests()
        values = iter(Scorer(model, store=False).score([request for item in asked for request in item]))
        return [float(sum(next(values).sum() for _ in item)) for item in asked]

    return Runner("fairforget", run)


def harness(model, batch: int, texts: Sequence[tuple[str, str]]) -> Runner:
    """lm-eval on the same model object, with the same prefix token."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, device="cpu", batch_size=batch, prefix_token_id=model.prefix_id)

    def run() -> list[float]:
        asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(texts)]
        return [score for score, _ in peer.loglikelihood(asked, disable_tqdm=True)]

    return Runner(f"lm-eval HFLM, batch {batch}", run)


def sentence_case(model, count: int, batches: Sequence[int]) -> Case:
    from fairforget.scoring import ContinuationRequest

    sentences = [sentence for pair in pairs(count) for sentence in (pair.sent_more, pair.sent_less)]

    def requests() -> list[list]:
        return [[ContinuationRequest(model.prefix, tuple(model.token_ids(sentence)))] for sentence in sentences]

    peers = [harness(model, batch, [("", sentence) for sentence in sentences]) for batch in batches]
    return Case("CrowS-Pairs, sum (causal)", len(sentences), [ours(model, requests), *peers])


def choice_case(model, asked: Sequence[tuple[str, list[str], list[str]]], options: int, label: str, batches: Sequence[int]) -> Case:
    from fairforget.scoring import ContinuationRequest

    texts = [(context, f" {answer}") for context, *sets in asked for answer in sets[options == 3]]

    def requests() -> list[list]:
        joined = [model.join_ids(context, answer) for context, answer in texts]
        return [[ContinuationRequest(tuple(context), tuple(continuation))] for context, continuation in joined]

    peers = [harness(model, batch, texts) for batch in batches]
    return Case(f"BBQ, {options} options, {label}", len(texts), [ours(model, requests), *peers])


def masked_case(model, count: int) -> Case:
    """Nangia et al.'s pseudo-log-likelihood of the tokens that both sentences of a pair share."""
    import torch

    from fairforget.benchmarks._sentences import masked_requests, shared_positions

    rows = pairs(count)

    def places() -> list[tuple[list[int], list[int]]]:
        found = []
        for row in rows:
            more, less = model.sequence_ids(row.sent_more), model.sequence_ids(row.sent_less)
            found.extend(zip((more, less), shared_positions(more, less), strict=True))
        return found

    def requests() -> list[list]:
        return [list(masked_requests(model, ids, positions)) for ids, positions in places()]

    @torch.inference_mode()
    def loop() -> list[float]:
        """One forward per masked token, logits at all positions."""
        totals = []
        for ids, positions in places():
            total = 0.0
            for position in positions:
                masked = torch.tensor([ids])
                masked[0, position] = model.mask_id
                logits = model.hf(input_ids=masked).logits[0, position]
                total += float(torch.log_softmax(logits, dim=-1)[ids[position]])
            totals.append(total)
        return totals

    @torch.inference_mode()
    def copies() -> list[float]:
        """All masked copies of one sentence as one batch, logits at all positions: no padding, few forwards, much memory."""
        totals = []
        for ids, positions in places():
            if not positions:
                totals.append(0.0)
                continue
            rows, columns = torch.arange(len(positions)), torch.tensor(positions)
            masked = torch.tensor([ids]).repeat(len(positions), 1)
            masked[rows, columns] = model.mask_id
            logits = torch.log_softmax(model.hf(input_ids=masked).logits, dim=-1)
            totals.append(float(logits[rows, columns, torch.tensor(ids)[columns]].sum()))
        return totals

    runners = [ours(model, requests), Runner("one forward per token", loop), Runner("one batch per sentence", copies)]
    return Case("CrowS-Pairs, shared-pll (masked)", 2 * len(rows), runners)


def stand_in(folder: Path, destination: Path) -> None:
    """An encoder without a prediction head made loadable: the head is random, which changes scores and not the work."""
    import torch
    from transformers import AutoTokenizer, BertForMaskedLM

    torch.manual_seed(0)
    BertForMaskedLM.from_pretrained(folder).save_pretrained(destination)
    AutoTokenizer.from_pretrained(folder).save_pretrained(destination)


# the table --------------------------------------------------------------------------------------------------------------------


def rows_of(case: Case) -> tuple[list[list[str]], list[str]]:
    """Table rows of a measured case, and the sentences about it that mean failure."""
    first, table, wrong = case.runners[0], [], []
    for runner in case.runners:
        difference = max(abs(one - other) for one, other in zip(first.scores, runner.scores, strict=True))
        if not difference <= LARGEST_DIFFERENCE:
            wrong.append(f"{case.name}: {runner.name} differs from fairforget by {difference:.1e} nats")
        wall, processor = statistics.median(runner.wall), statistics.median(runner.processor)
        ratios = [statistics.median(runner.wall) / statistics.median(first.wall), processor / statistics.median(first.processor)]
        table.append([
            case.name if runner is first else "", runner.name, str(case.items), f"{wall:.2f}", f"{processor:.2f}", str(runner.tokens),
            str(runner.forwards), *(f"{ratio:.2f}" for ratio in ratios), "" if runner is first else f"{difference:.0e}",
        ])
    return table, wrong


COLUMNS = {
    "case": 32, "runner": 22, "items": 5, "wall s": 7, "CPU s": 7, "tokens": 7, "forwards": 8, "wall / ours": 11, "CPU / ours": 10,
    "max diff": 8,
}
"""Headings and widths; fixed, so that each case is printed as soon as it has been measured."""


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """GitHub Markdown, columns aligned."""
    for row in rows:
        sides = ["<", "<", *">" * (len(row) - 2)]
        aligned = [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, COLUMNS.values(), strict=True)]
        print(f"| {' | '.join(aligned)} |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="CrowS-Pairs pairs, spread over the file (default 100)")
    parser.add_argument("--questions", type=int, default=24, help="BBQ questions, spread over its categories; a multiple of 4 (default 24)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="times that each runner is run (default 3)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="batch sizes of lm-eval (default 1 32)")
    parser.add_argument("--cases", nargs="+", choices=["sentences", "choices", "masked"], default=["sentences", "choices", "masked"])
    parser.add_argument("--causal", default="smollm2-135m", help="causal model (default: the built-in one)")
    parser.add_argument("--masked", default="minilm-mlm", help="masked model; a folder with an encoder alone gets a random head")
    parser.add_argument("--bbq", type=Path, help="folder of BBQ's *.jsonl.gz (default: $FAIRFORGET_DATA/bbq)")
    return parser.parse_args()


def cases(options: argparse.Namespace) -> Iterator[tuple[Case, object]]:
    """The wanted cases, each with the network that its runners use."""
    import fairforget as ff

    if {"sentences", "choices"} & set(options.cases):
        causal = ff.load(options.causal, device="cpu", dtype="float32")
        if "sentences" in options.cases:
            yield sentence_case(causal, options.pairs, options.batches), causal.hf
        if "choices" in options.cases:
            folder = options.bbq or Path(os.environ.get("FAIRFORGET_DATA", ".")) / "bbq"
            if not folder.is_dir():
                sys.exit(f"There is no folder {folder}: name the one with BBQ's *.jsonl.gz by --bbq.")
            for block, label in ((1, "apart"), (4, "in fours")):
                asked = questions(folder, options.questions, block)
                for size in (12, 3):
                    yield choice_case(causal, asked, size, label, options.batches), causal.hf
    if "masked" in options.cases:
        with tempfile.TemporaryDirectory() as scratch:
            source = options.masked
            if (Path(source) / "config.json").is_file() and "ForMaskedLM" not in (Path(source) / "config.json").read_text(encoding="utf-8"):
                stand_in(Path(source), Path(scratch))
                source = scratch
            masked = ff.load(source, device="cpu", dtype="float32")
            yield masked_case(masked, options.pairs), masked.hf


def main() -> int:
    options = arguments()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import logging

    import torch
    import transformers

    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
    if {"sentences", "choices"} & set(options.cases):
        import importlib.metadata

        versions["lm-eval"] = importlib.metadata.version("lm-eval")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"threads {options.threads}, repeats {options.repeats}, float32, CPU\n")
    rule = ["-" * (width - 1) + ("-" if column < 2 else ":") for column, width in enumerate(COLUMNS.values())]
    print_rows([list(COLUMNS), rule])
    wrong = []
    for case, hf in cases(options):
        measure(case, hf, options.repeats)
        rows, failures = rows_of(case)
        print_rows(rows)
        wrong += failures
    for sentence in wrong:
        print(f"NOT EQUAL. {sentence}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
