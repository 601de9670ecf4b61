"""One model under each protocol of the same benchmark, a table for docs/protocols.md. Resumable; the score store keeps what presets share.

python recipes/protocols.py run runs/protocols
python recipes/protocols.py table runs/protocols
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

import fairforget as ff
from fairforget.tables import read_table
from fairforget.workflows.recipe import BenchmarkChoice

MODELS = ("minilm-mlm", "smollm2-135m")
BOTH, MASKED, CAUSAL = ("masked", "causal"), ("masked",), ("causal",)
PRESETS: tuple[tuple[str, dict[str, Any], tuple[tuple[str, tuple[str, ...]], ...]], ...] = (
    ("crows-pairs", {"share": 0.5}, (
        ("shared-pll", MASKED), ("nangia", MASKED), ("bias-bench-masked", MASKED),
        ("sum", CAUSAL), ("lm-eval", CAUSAL), ("mean", CAUSAL), ("bias-bench-causal", CAUSAL),
    )),
    ("stereoset", {"share": 0.5}, (("intrasentence", BOTH), ("bias-bench", BOTH))),
    ("winogender", {}, (("coreference", BOTH), ("lm-eval", BOTH), ("chat", CAUSAL))),
    ("toxigen", {"limit": 40}, (("", BOTH), ("safenlp", BOTH))),
    ("arc", {"subset": "easy", "limit": 150}, (("", BOTH), ("lm-eval", BOTH), ("chat", CAUSAL))),
    ("commonsenseqa", {"limit": 150}, (("", BOTH), ("texts", BOTH), ("lm-eval", BOTH), ("chat", CAUSAL))),
    ("copa", {}, (("", BOTH), ("lm-eval", BOTH), ("chat", CAUSAL))),
    ("blimp", {"limit": 10}, (("", BOTH), ("lm-eval", BOTH))),
    ("lambada", {"limit": 300}, (("", CAUSAL), ("lm-eval", CAUSAL))),
    ("perplexity", {}, (("", CAUSAL), ("joined", CAUSAL), ("bias-bench", CAUSAL), ("lm-eval", CAUSAL))),
    ("redditbias", {"limit": 40}, (("", BOTH), ("released", BOTH))),
    ("unqover", {"domain": "religion", "limit": 6}, (("", BOTH), ("authors", MASKED))),
    ("bbq", {"category": "Religion"}, (("paper", BOTH), ("lm-eval", CAUSAL), ("helm", CAUSAL), ("chat", CAUSAL))),
    ("gsm8k", {"limit": 20}, (("0-shot", CAUSAL), ("chat", CAUSAL))),
    ("bold", {"limit": 4}, (("", CAUSAL), ("chat", CAUSAL))),
    ("real-toxicity-prompts", {"limit": 20}, (("", CAUSAL), ("chat", CAUSAL))),
)
"""Benchmark, the part of it that is measured, presets and the families that each applies to."""
FIGURES = {
    "toxigen": (("toxigen-annotated", "safety_score"), ("toxigen-annotated", "superiority")),
    "bbq": (("bbq", "accuracy"), ("bbq", "pct_stereotype"), ("bbq-disambig", "s_dis"), ("bbq-ambig", "s_amb")),
    "bold": (("bold-sentiment", "sentiment"), ("bold-sentiment", "pct_positive"), ("bold-repetition", "distinct_2")),
    "real-toxicity-prompts": (
        ("real-toxicity-prompts-sentiment", "sentiment"), ("real-toxicity-prompts-sentiment", "pct_negative"),
        ("real-toxicity-prompts-repetition", "distinct_2"),
    ),
    "perplexity": (("perplexity-wikitext2", "perplexity"), ("perplexity-wikitext2", "word_perplexity")),
}
"""Tasks and metrics that are shown; of other benchmarks the first two of all their items together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.folder)
    else:
        table(arguments.folder)


def name_of(benchmark: str, preset: str) -> str:
    return f"{benchmark}:{preset}" if preset else benchmark


def run(folder: Path) -> None:
    """Audit both models under every preset that is not there yet."""
    for reference in MODELS:
        model = ff.load(reference)
        for benchmark, settings, presets in PRESETS:
            for preset, families in presets:
                name = name_of(benchmark, preset)
                out = folder / reference / name.replace(":", "-")
                if model.family in families and not (out / "run.json").exists():
                    ff.audit(model, [BenchmarkChoice(name=name, settings=settings)], out=out)
                    print(f"{reference}: {name}", flush=True)


def table(folder: Path) -> None:
    """The figures of each benchmark that are asked for, else the first two over all its items."""
    print("| benchmark | preset | figure | " + " | ".join(MODELS) + " |")
    print("|" + " --- |" * (3 + len(MODELS)))
    for benchmark, _, presets in PRESETS:
        for preset, _ in presets:
            name = name_of(benchmark, preset)
            found = {reference: figures(folder / reference / name.replace(":", "-"), FIGURES.get(benchmark, ())) for reference in MODELS}
            keys = list(dict.fromkeys(key for one in found.values() for key in one))
            for key in keys:
                cells = " | ".join(found[reference].get(key, "–") for reference in MODELS)
                print(f"| {benchmark} | {preset or '(default)'} | {key} | {cells} |")


def figures(run_folder: Path, wanted: Sequence[tuple[str, str]]) -> dict[str, str]:
    path = run_folder / "tables" / "metrics.parquet"
    if not path.exists():
        return {}
    rows = read_table(path, ("task", "metric", "group")).filter(pl.col("group") == "all")
    last = rows["task"][-1]  # where there are figures of all tasks together, they come last
    shown: dict[str, str] = {}
    for row in rows.iter_rows(named=True):
        if (row["task"], row["metric"]) in wanted:
            shown[label(row, last)] = figure(row)
    for row in rows.filter(pl.col("task") == last).iter_rows(named=True):
        if not wanted and len(shown) < 2 and row["metric"] != "margin_rms" and not math.isnan(row["value"]):
            shown[label(row, last)] = figure(row)
    return shown


def label(row: dict[str, Any], pooled: str) -> str:
    task = "" if row["task"] == pooled else f" ({row['task'].rpartition('-')[2]})"
    return f"{row['metric']}{task}{', ' + row['unit'] if row['unit'] else ''}"


def figure(row: dict[str, Any]) -> str:
    """A figure with its interval, or the words for why it has none."""
    value = f"{row['value']:.4g}"
    return f"{value} ({row['note'].split(';')[0]})" if math.isnan(row["low"]) and row["note"] else (
        value if math.isnan(row["low"]) else f"{value} [{row['low']:.3g}, {row['high']:.3g}]"
    )


if __name__ == "__main__":
    main()
