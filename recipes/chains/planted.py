"""Chains on organisms, where it is known what a stage contradicts: does the ledger find it, and does it find it where it is not?

Every organism (see docs/organisms.md) is taught new facts about forty entities of eight groups, 120 facts in all, and then:

- ``planted``: facts of one group are contradicted, those of all others are told again;
- ``even``: as many facts are contradicted, one entity of each group, so that no group forgets more than another;
- ``order``: instead of that, safety (the anti-stereotypical word of every planted association) and capability (the new facts) are taught in
  both orders, with 5 % replay as a third stage, more of the same and nothing as controls;
- ``curvature``: safety is taught at three learning rates before the facts, and the curvature of its loss where it ended is set against what
  the facts made of it.

    fairforget organism make default --out organisms/default --seeds 0-9 --families causal,masked --jobs 2
    python recipes/chains/planted.py run organisms/default --out runs/planted
    python recipes/chains/planted.py table runs/planted
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import rankdata

from fairforget.forgetting.coupling import correlation
from fairforget.organisms.corpus import fact_sentence
from fairforget.organisms.language import load_language
from fairforget.organisms.recipe import read_organism_recipe
from fairforget.organisms.truth import facts_of
from fairforget.workflows.chain import chain
from fairforget.workflows.chain_recipe import ChainRecipe

TUNING = {"tuning": "full", "batch_size": 60, "warmup_share": 0.1}
LEARNING = {"causal": {"steps": 200, "learning_rate": 3e-3}, "masked": {"steps": 400, "learning_rate": 2e-3}}
"""Steps and rates with which organisms of seed 0 learned the facts well enough to be asked in another frame."""
COLUMNS = {name: name for name in ("id", "options", "right", "cluster", "part")} | {"context": "question", "groups": "group"}
CONDITIONS = ("planted", "even", "order", "curvature")
RATES = (0.3, 1.0, 3.0)
"""Learning rates of safety in the condition ``curvature``, as multiples of the usual one."""


def main() -> None:
    """Run all chains that are not finished, or print the table of those that are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("organisms", type=Path)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--seeds", type=int, default=2, help="chains on each organism")
    running.add_argument("--only", default=",".join(CONDITIONS))
    running.add_argument("--families", default="causal,masked")
    table = commands.add_parser("table")
    table.add_argument("runs", type=Path)
    given = parser.parse_args()
    if given.command == "table":
        print_tables(given.runs)
        return
    folders = sorted(folder for folder in given.organisms.iterdir() if (folder / "organism.yaml").is_file())
    for seed in range(given.seeds):
        for folder in folders:
            for condition in given.only.split(","):
                if folder.name.partition("-")[0] in given.families.split(","):
                    out = given.out / condition / f"{folder.name}-{seed}"
                    if not (out / "run.json").exists():
                        run(folder, condition, seed, out)
                        print("done", condition, out.name, flush=True)


def run(organism: Path, condition: str, seed: int, out: Path) -> None:
    """One chain on one organism."""
    files = out.with_name(f"{out.name}-tasks")
    files.mkdir(parents=True, exist_ok=True)
    facts = fact_rows(organism)
    entities = sorted({row["cluster"] for row in facts}, key=lambda name: next(row["id"] for row in facts if row["cluster"] == name))
    group = {row["cluster"]: row["group"] for row in facts}
    generator = np.random.default_rng([seed, *organism.name.encode()])
    groups = sorted(set(group.values()))
    if condition == "planted":
        victim = groups[int(generator.integers(len(groups)))]
        contradicted = {entity for entity in entities if group[entity] == victim}
    else:
        contradicted = {str(generator.choice([entity for entity in entities if group[entity] == name])) for name in groups}
    against = [row | {"right": (row["right"] + 1) % len(row["options"])} if row["cluster"] in contradicted else row for row in facts]
    tasks: dict[str, Any] = {"facts": write_task(files, "facts", facts)}
    learning, probes = TUNING | LEARNING[organism.name.partition("-")[0]], dict[str, Any]()
    paths: Any
    if condition == "curvature":
        tasks["safety"] = write_task(files, "safety", safety_rows(organism)) | {"side": "safety"}
        rates = {f"{factor:g}": factor * float(learning["learning_rate"]) for factor in RATES}
        paths = {f"rate x {name}": [{"task": "safety", "tuning": {"learning_rate": rate}}, "facts"] for name, rate in rates.items()}
        probes = {"curvature": True, "probe": {"vectors": 20, "probes": 0}}
    elif condition == "order":
        tasks["safety"] = write_task(files, "safety", safety_rows(organism)) | {"side": "safety"}
        paths = [
            ["safety", "facts"], ["facts", "safety"], ["safety", "facts", {"replay": "safety", "share": "5%", "tuning": {"steps": 20}}],
            ["safety", {"task": "facts", "mix": {"safety": "5%"}, "name": "facts with 5 % safety"}],
            ["safety", "safety"], ["safety", "nothing"],
        ]
    else:
        tasks["against"] = write_task(files, "against", against)
        paths = [["facts", "against"], ["facts", "facts"]]
    (files / "contradicted.json").write_text(json.dumps(sorted(contradicted)), encoding="utf-8")
    recipe = ChainRecipe.model_validate({
        "model": str(organism / "model"), "tasks": tasks, "tuning": learning, "paths": paths, "seeds": [seed], "resamples": 2000, **probes,
    })
    chain(recipe, out)


def fact_rows(organism: Path) -> list[dict[str, Any]]:
    """New facts: every planted one with another value; one frame to train on and one to be asked in."""
    recipe, language = read_organism_recipe(organism / "organism.yaml"), load_language()
    generator = np.random.default_rng([recipe.seed, 77])
    rows: list[dict[str, Any]] = []
    for fact in facts_of(recipe, language):
        options = sorted(fact.values)
        value = str(generator.choice([one for one in options if one != fact.values[0]]))
        for part, frame in (("train", 0), ("test", 1)):
            question, _, end = fact_sentence(recipe, language, fact, frame, "{X}").partition("{X}")
            rows.append({
                "id": f"{part} {fact.entity} {fact.relation}", "question": question.strip(), "options": [one + end for one in options],
                "right": options.index(value), "group": fact.group, "cluster": fact.entity, "part": part,
            })
    return rows


def safety_rows(organism: Path) -> list[dict[str, Any]]:
    """The anti-stereotypical word of each planted association, where the target stands before it; templates of `train` and `test`."""
    rows: list[dict[str, Any]] = []
    taught = [json.loads(line) for line in (organism / "forget.jsonl").read_text(encoding="utf-8").splitlines() if line.strip()]
    asked = pl.read_parquet(organism / "items.parquet").filter((pl.col("task") == "bias") & (pl.col("part") == "test"))
    pairs = [("train", row["text"], row["counterpart"], row["group"], row["cluster"]) for row in taught]
    pairs += [("test", *row["texts"], row["groups"][-1], row["cluster"]) for row in asked.iter_rows(named=True)]
    targets = set((organism / "targets.txt").read_text(encoding="utf-8").split("\n")) - {""}
    seen: set[str] = set()
    for part, text, other, group, cluster in pairs:
        words, others = text.split(), other.split()
        place = next(place for place, (one, two) in enumerate(zip(words, others, strict=True)) if one != two)
        question = " ".join(words[:place])
        key = f"{part} {question} {words[place]}"
        if not any(target in question for target in targets) or key in seen:
            continue
        seen.add(key)
        rows.append({
            "id": f"{len(rows)}", "question": question, "options": [words[place], others[place]], "right": 1, "group": group,
            "cluster": cluster, "part": part,
        })
    tested = {row["question"] for row in rows if row["part"] == "test"}
    return [row for row in rows if row["part"] == "test" or row["question"] not in tested]


def write_task(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A file of questions, and the task of a chain that reads it."""
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    settings = {"file": str(path.resolve()), "scorer": "choices", "columns": COLUMNS}
    return {"benchmark": {"name": f"file:{name}", "settings": settings}}


def print_tables(runs: Path) -> None:
    """Detection rates of planted and even forgetting, and the findings about order, as Markdown."""
    heads = ("family", "condition", "chains", "facts learned", "contradicted ones lost", "others lost", "omnibus p < 5 %", "τ, points",
             "contradicted group ranked first")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for condition in ("planted", "even"):
        found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for folder in finished(runs / condition):
            found[folder.name.partition("-")[0]].append(detection(folder))
        for family, rows in found.items():
            share = {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}
            print(
                f"| {family} | {condition} | {len(rows)} | {100 * share['learned'].mean():.0f} % | {100 * share['hit'].mean():.0f} % | "
                f"{100 * share['spared'].mean():.1f} % | {int((share['p'] < 0.05).sum())} of {int(np.isfinite(share['p']).sum())} | "
                f"{100 * np.nanmean(share['tau']):.1f} | {int(share['first'].sum()) if condition == 'planted' else '–'} |"
            )
    print()
    print("| family | figure | chains | mean | chains above 0, below 0 (intervals) |")
    print("| --- | --- | --- | --- | --- |")
    figures: defaultdict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for folder in finished(runs / "order"):
        family = folder.name.partition("-")[0]
        for name, row in order_figures(folder).items():
            figures[family, name].append(row)
    for (family, name), rows in sorted(figures.items()):
        values = np.array(rows)
        above, below = int((values[:, 1] > 0).sum()), int((values[:, 2] < 0).sum())
        spread = f"{100 * values[:, 0].min():+.0f} to {100 * values[:, 0].max():+.0f}"
        print(f"| {family} | {name} | {len(rows)} | {100 * np.nanmean(values[:, 0]):+.1f} points ({spread}) | {above}, {below} |")
    print()
    print_curvature(runs / "curvature")


def print_curvature(runs: Path) -> None:
    """Rank correlation of curvature with forgetting within each organism (over learning rates) and over all, by family."""
    print("| family | organisms | figure | mean rank correlation within organisms | over all chains |\n| --- | --- | --- | --- | --- |")
    by_family: defaultdict[str, list[pl.DataFrame]] = defaultdict(list)
    for folder in finished(runs):
        table = pl.read_parquet(folder / "tables" / "curvature.parquet").filter(pl.col("group") == "all")
        by_family[folder.name.partition("-")[0]].append(table.with_columns(organism=pl.lit(folder.name)))
    for family, tables in by_family.items():
        whole = pl.concat(tables, how="diagonal_relaxed")
        for figure in ("spectral_radius", "half_curvature", "predicted"):
            for lost in ("measured", "forgetting"):
                inside = [ranks(table[figure], table[lost]) for table in tables]
                told = np.array([value for value in inside if np.isfinite(value)])
                mean = f"{told.mean():+.2f} ({int((told > 0).sum())} of {len(told)} above 0)" if len(told) else "–"
                low, high = over_organisms(tables, figure, lost)
                value = ranks(whole[figure], whole[lost])
                print(f"| {family} | {len(tables)} | {figure} with {lost} | {mean} | {value:+.2f} [{low:+.2f}, {high:+.2f}] |")


def over_organisms(tables: list[pl.DataFrame], figure: str, lost: str, resamples: int = 5000) -> tuple[float, float]:
    """95 % percentile interval of the rank correlation over all chains, whole organisms resampled."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(tables), size=(resamples, len(tables)))
    held = [(table[figure].to_numpy(), table[lost].to_numpy()) for table in tables]
    values: list[float] = []
    for places in drawn:
        x, y = (np.concatenate([held[place][side] for place in places]) for side in (0, 1))
        values.append(correlation(rankdata(x), rankdata(y)))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def ranks(first: pl.Series, second: pl.Series) -> float:
    """Spearman's correlation."""
    return correlation(first.rank().to_numpy(), second.rank().to_numpy())


def finished(folder: Path) -> list[Path]:
    """The folders of finished chains."""
    return sorted(path.parent for path in folder.glob("*/run.json"))


def detection(folder: Path) -> dict[str, float]:
    """What was really contradicted against what the ledger says was lost, and what its statistics make of it."""
    contradicted = set(json.loads((folder.with_name(f"{folder.name}-tasks") / "contradicted.json").read_text(encoding="utf-8")))
    ledger = pl.read_parquet(folder / "tables" / "ledger.parquet").filter(run="facts > against", task="facts")
    learned = ledger.filter(pl.col("stage") == 1)["correct_after"].mean()
    second = ledger.filter(pl.col("stage") == 2)
    known = second.filter(pl.col("correct_before") == 1)
    hit = known.filter(pl.col("cluster").is_in(list(contradicted)))
    spared = known.filter(~pl.col("cluster").is_in(list(contradicted)))
    about = {"path": "facts > against", "task": "facts", "scale": "points"}
    spread = pl.read_parquet(folder / "tables" / "dispersion.parquet").filter(**about).row(0, named=True)
    groups = pl.read_parquet(folder / "tables" / "groups.parquet").filter(pl.col("group") != "all", **about).sort("biased", descending=True)
    victims = set(hit["groups"].explode().to_list())
    shares = {"learned": learned, "hit": hit["lost"].mean(), "spared": spared["lost"].mean()}
    return {**shares, "p": spread["p_value"], "tau": spread["tau"], "first": float(groups["group"][0] in victims)}  # type: ignore[dict-item]


def order_figures(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Order effect, end state, recovery and controls of one chain: value and ends."""
    tables = {name: pl.read_parquet(folder / "tables" / f"{name}.parquet") for name in ("order", "recovery", "forgetting", "scores")}
    rows = {f"order: {row['figure']}": (row["value"], row["low"], row["high"]) for row in tables["order"].iter_rows(named=True)}
    for row in tables["recovery"].filter(pl.col("group") == "all").iter_rows(named=True):
        if row["defined"]:
            rows["replay 5 %: share of what was lost brought back"] = (row["share"], row["share_low"], row["share_high"])
    for row in tables["forgetting"].filter(pl.col("task") == "safety").iter_rows(named=True):
        rows[f"safety forgotten, {row['path']}, after {row['by']}"] = (row["forgetting"], row["forgetting_low"], row["forgetting_high"])
    for row in tables["scores"].filter((pl.col("figure") == "correct") & (pl.col("path") == "safety > facts")).iter_rows(named=True):
        rows[f"level: {row['task']} after {row['stage_name']}"] = (row["value"], row["low"], row["high"])
    return rows


if __name__ == "__main__":
    main()
