"""Writes run folders of made-up figures, in the form that the workflows write, for the tests of the page and of the card.

Items are about left- and right-handed people: nothing here needs a content warning. The figures are drawn with a fixed seed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from fairforget.tables import item_table, preference

DOMAINS = ("handedness", "height", "hair-colour", "shoe-size")
HOSTILE_TEXT = (
    "</script><script>document.title='pwned'</script>"
    "<img src=https://example.org/x.png onerror=\"document.title='pwned'\"> {{ 7*7 }} & so on"
)
HEADLINE = "The stereotype is preferred less: the root mean square margin fell from 0.412 to 0.187 nats, for 1.1 % more perplexity."
SENTENCES = [
    "The edited model prefers the stereotype in 53.1 % of pairs, before in 61.7 %; the paired difference is −8.6 points.",
    "The budget of 2 % is kept on the test part as well: perplexity rose by 1.1 %, and its upper 95 % bound is 1.6 %.",
]
LIMITS = [
    "The starter set is for a first look: mild sentences in English by one group of authors.",
    "Nothing was measured about what the model writes when it is left to write freely.",
    "Sentence likelihoods say nothing about <how> the model treats people in use.",
]


def write_synthetic_run(folder: Path, kind: str = "debias", items: int = 240, seed: int = 0, hostile: bool = True) -> Path:
    """Write a run folder of the given kind and return it."""
    rng = np.random.default_rng(seed)
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    base = _bias_items(rng, items, hostile)
    change = -0.25 - 0.5 * (base["margin"].to_numpy() - 0.2) + 0.25 * rng.normal(size=base.height)
    after = base["margin"].to_numpy() + change
    if hostile:
        after[:8] = -1.0  # the hostile texts turn, and far enough to be listed first
    edited = base.with_columns(pl.Series("margin", after), pl.Series("prefers_stereotype", [preference(value) for value in after]))
    base.write_parquet(tables / "items-base-test.parquet")
    metrics = [
        *_metric_rows(base, edited, "test"),
        *_metric_rows(base.head(items // 2), edited.head(items // 2), "select"),
        *_perplexity_rows(),
    ]
    frame = pl.DataFrame(metrics, infer_schema_length=None)
    if kind == "audit":
        frame = frame.filter(pl.col("state") == "base")
    else:
        edited.write_parquet(tables / "items-edited-test.parquet")
        _ledger(rng, base, edited).write_parquet(tables / "ledger.parquet")
    frame.write_parquet(tables / "metrics.parquet")
    if kind == "debias":
        _strength_table().write_parquet(tables / "strength.parquet")
        (folder / "recipe.yaml").write_text("model: smollm2-135m\nmethod:\n  name: task-vector\n  rank: 8\n", encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(_record(kind)), encoding="utf-8")
    verdict = {"headline": HEADLINE, "kind": "lowered", "sentences": SENTENCES, "limits": LIMITS}
    if kind == "audit":
        headline = "The model prefers the stereotype in 61.7 % of pairs, more often than not."
        verdict = {"headline": headline, "kind": "", "sentences": [], "limits": LIMITS}
    (tables / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")
    return folder


def _bias_items(rng: np.random.Generator, count: int, hostile: bool) -> pl.DataFrame:
    rows = []
    for number in range(count):
        domain = DOMAINS[number % 4]
        margin = float(rng.normal(0.2 + 0.15 * (number % 4), 0.6))
        text = f"The {('left', 'right')[number % 2]}-handed person number {number} folded the map"
        texts = [f"{text} badly.", f"{text} neatly."]
        if hostile and number < 8:
            texts[0] = f"{texts[0]} {HOSTILE_TEXT}"
            margin = 3.0
        rows.append(
            {
                "benchmark": "starter",
                "protocol": "sum",
                "task": "starter",
                "role": "bias",
                "part": "test",
                "item": f"item-{number}",
                "cluster": f"template-{number % 30}",
                "stratum": domain,
                "groups": [domain, "<b>group</b>"] if number == 0 else [domain],
                "texts": texts,
                "scores": [-30.0 + margin, -30.0],
                "margin": margin,
                "prefers_stereotype": preference(margin),
                "prefix": "id 0",
                "prompt_format": "plain",
            }
        )
    return item_table(rows)


def _figure(state: str, part: str, metric: str, group: str, values: np.ndarray, unit: str, neutral: float, clusters: int, **more) -> dict:
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    value = float(values.mean())
    few = clusters < 5
    joint = "simultaneous over 4 groups" if state == "difference" and group != "all" else ""
    return {
        "state": state,
        "part": part,
        "benchmark": "starter",
        "protocol": "sum",
        "task": "starter",
        "metric": metric,
        "group": group,
        "value": value,
        "low": float("nan") if few else value - 1.96 * error,
        "high": float("nan") if few else value + 1.96 * error,
        "standard_error": error,
        "neutral": 0.0 if state == "difference" else neutral,
        "unit": unit,
        "n": len(values),
        "clusters": clusters,
        "ties": 3 if state == "base" else 1,
        "skipped": 0,
        "note": f"too few clusters ({clusters})" if few else joint,
        "prefix": "id 0",
        "better": "neutral",
        **more,
    }


def _metric_rows(base: pl.DataFrame, edited: pl.DataFrame, part: str) -> list[dict]:
    rows = []
    for metric, column, scale, unit, neutral in (
        ("pct_stereotype", "prefers_stereotype", 100.0, "%", 50.0),
        ("margin", "margin", 1.0, "nats", 0.0),
    ):
        for group in ("all", *DOMAINS):
            keep = base["stratum"].to_numpy() == group if group != "all" else np.ones(base.height, bool)
            clusters = 3 if group == "shoe-size" else len(set(base["cluster"].to_numpy()[keep]))
            before, after = scale * base[column].to_numpy()[keep], scale * edited[column].to_numpy()[keep]
            for state, values in (("base", before), ("edited", after), ("difference", after - before)):
                rows.append(_figure(state, part, metric, group, values, unit, neutral, clusters))
    for state, value, low, high in (("base", 0.412, 0.35, 0.474), ("edited", 0.187, 0.12, 0.254), ("difference", -0.225, -0.29, -0.16)):
        facts = next(row for row in rows if row["metric"] == "margin" and row["group"] == "all" and row["state"] == state)
        rows.append({**facts, "metric": "margin_rms", "value": value, "low": low, "high": high, "neutral": 0.0, "better": "lower"})
    return rows


def _perplexity_rows() -> list[dict]:
    shared = {
        "part": "test",
        "benchmark": "perplexity",
        "protocol": "token",
        "task": "perplexity",
        "group": "all",
        "n": 1286,
        "clusters": 62,
        "ties": None,
        "skipped": 0,
        "note": "",
        "prefix": "id 0",
        "better": "lower",
        "neutral": None,
        "standard_error": 0.1,
    }
    levels = [("base", 24.31, 22.8, 25.9), ("edited", 24.58, 23.1, 26.2), ("difference", 0.27, 0.18, 0.39)]
    return [
        *(
            {**shared, "metric": "perplexity", "unit": "ppl", "state": state, "value": value, "low": low, "high": high}
            for state, value, low, high in levels
        ),
        {
            **shared,
            "metric": "perplexity_ratio",
            "unit": "ratio",
            "state": "difference",
            "neutral": 1.0,
            "value": 1.0111,
            "low": 1.0062,
            "high": 1.016,
        },
    ]


def _strength_table() -> pl.DataFrame:
    rows = []
    for strength, phase, ratio, target, signed in (
        (0.0, "target", 1.0, 0.412, 0.38),
        (0.15, "target", 1.001, 0.35, 0.31),
        (0.3, "target", 1.004, 0.281, 0.22),
        (0.45, "target", 1.008, 0.214, 0.12),
        (0.6, "target", 1.0125, 0.187, 0.03),
        (0.625, "budget", 1.0142, None, None),
        (0.75, "budget", 1.023, None, None),
        (1.0, "budget", 1.051, None, None),
    ):
        high = ratio + 0.006 * strength
        rows.append(
            {
                "strength": strength,
                "phase": phase,
                "perplexity_ratio": ratio,
                "ratio_low": ratio - 0.006 * strength,
                "ratio_high": high,
                "target": target,
                "target_se": 0.03 if target is not None else None,
                "signed_mean": signed,
                "within_budget": high <= 1.02,
                "reversed": False,
                "chosen": strength == 0.6,
                "note": "",
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _ledger(rng: np.random.Generator, base: pl.DataFrame, edited: pl.DataFrame) -> pl.DataFrame:
    names = {(1.0, 1.0): "stereotype kept", (1.0, 0.0): "turned away", (0.0, 1.0): "turned to stereotype", (0.0, 0.0): "neutral kept"}
    rows = []
    for before, after in zip(base.iter_rows(named=True), edited.iter_rows(named=True), strict=True):
        rows.append(
            {
                **{name: before[name] for name in ("benchmark", "task", "role", "item", "cluster", "stratum", "groups")},
                "margin_before": before["margin"],
                "margin_after": after["margin"],
                "prefers_stereotype_before": before["prefers_stereotype"],
                "prefers_stereotype_after": after["prefers_stereotype"],
                "nll_before": None,
                "nll_after": None,
                "correct_before": None,
                "correct_after": None,
                "transition": names[before["prefers_stereotype"], after["prefers_stereotype"]],
            }
        )
    outcomes = ("kept", "kept", "kept", "never", "lost", "gained")
    for number in range(60):
        outcome = outcomes[number % 6]
        before, after = float(outcome in ("kept", "lost")), float(outcome in ("kept", "gained"))
        rows.append(
            {
                "benchmark": "stereoset",
                "task": "stereoset-language-modelling",
                "role": "ability",
                "item": f"ability-{number}",
                "cluster": f"term-{number % 9}",
                "stratum": "none",
                "groups": [],
                "margin_before": None,
                "margin_after": None,
                "prefers_stereotype_before": None,
                "prefers_stereotype_after": None,
                "nll_before": 20.0,
                "nll_after": 20.0 + float(rng.normal()),
                "correct_before": before,
                "correct_after": after,
                "transition": outcome,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _record(kind: str) -> dict:
    edits = {
        "method": {
            "name": "task-vector",
            "settings": {"rank": 8, "learning_rate": 0.0002, "epochs": 2, "modules": ["q_proj", "v_proj"]},
            "summary": "Fine-tuned on stereotyped sentences by LoRA, then subtracted.",
        },
        "training": {"source": "starter", "texts": 812, "tokens": 14210, "optimizer": "AdamW"},
        "target": "starter:margin",
        "budget": {"metric": "perplexity", "percent": 2.0},
        "strength": 0.6,
    }
    return {
        "kind": kind,
        "model": {
            "name": "smollm2-135m",
            "source": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "family": "causal",
            "base_hash": "5af5" * 16,
            "parameters": 134515008,
            "dtype": "float32",
            "device": "cpu",
            "prefix": 0,
        },
        **(edits if kind == "debias" else {"method": None, "training": None, "target": None, "budget": None, "strength": None}),
        "benchmarks": [
            {"name": "starter", "protocol": "sum", "settings": {}, "caution": "starter set: for a first look", "datasets": ["starter"]},
            {"name": "perplexity", "protocol": "token", "settings": {"context": 512}, "datasets": ["wikitext2"]},
        ],
        "datasets": [
            {
                "name": "starter",
                "licence": "Apache-2.0",
                "citation": "Shipped with fairforget.",
                "content_warning": "Holds mild stereotypes.",
                "sha256": "ab" * 32,
            },
            {
                "name": "wikitext2",
                "licence": "CC BY-SA 3.0",
                "citation": "Merity et al. (2016), Pointer Sentinel Mixture Models.",
                "content_warning": None,
                "sha256": {"wiki.valid.raw": "cd" * 32, "wiki.test.raw": "ef" * 32},
            },
        ],
        **({"runs": ["runs/one", "runs/two"], "other_model": {"name": "other", "source": "./other"}} if kind == "compare" else {}),
        "seed": 0,
        "versions": {"fairforget": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "git": {"commit": "0123abc", "dirty": False},
        "command": "fairforget debias --out runs/demo",
        "started": "2026-01-15T10:20:30+00:00",
        "seconds": 412.7,
        "warnings": ["3 training sentences resemble test sentences (8-gram overlap of half or more)."] if kind == "debias" else [],
    }
