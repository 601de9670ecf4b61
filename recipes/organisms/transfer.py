"""Does unlearning one domain lower others? One domain at a time on organisms whose domains share nothing, or words and templates.

    fairforget organism make apart --out organisms/apart --seeds 0-1 --families causal,masked --jobs 2
    python recipes/organisms/transfer.py study organisms/apart/causal-0 > apart-causal-0.yaml
    fairforget study apart-causal-0.yaml --out runs/transfer/apart/causal-0
    python recipes/organisms/transfer.py table runs/transfer/apart

`study` writes a study: each method trained on the stereotypes of one domain. `table` brings studies together: the fall of |b|, the distance
of a domain's mean margin from neutral, for the domain that was unlearned and for the others, on `test` templates.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import polars as pl
import yaml

METHODS = ("task-vector", "gap", "mlm-unlearning", "mlm-unlearning-random")
"""`mlm-unlearning-random` is the control: as many words of the same texts, drawn at random."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("study", "table"))
    parser.add_argument("folder", type=Path, help="an organism, or a folder with study folders FAMILY-SEED")
    arguments = parser.parse_args()
    if arguments.what == "study":
        yaml.safe_dump(one_domain_at_a_time(arguments.folder.resolve()), sys.stdout, sort_keys=False)
    else:
        print(table(arguments.folder))


def one_domain_at_a_time(organism: Path) -> dict[str, Any]:
    """The organism's study with an axis of training domains."""
    study: dict[str, Any] = yaml.safe_load((organism / "study.yaml").read_text(encoding="utf-8"))
    kept = [variant for variant in study["axes"]["method"] if variant["name"] in METHODS]
    domains = sorted(path.stem for path in (organism / "forget").glob("*.jsonl"))
    trained = [
        {"name": domain, "train": study["base"]["train"] | {"source": str(organism / "forget" / f"{domain}.jsonl")}} for domain in domains
    ]
    return study | {"axes": {"method": kept, "unlearned": trained}}


def table(folder: Path) -> str:
    """Mean fall of |b| over organisms and unlearned domains, with the least and the most."""
    rows: list[dict[str, Any]] = []
    for study in sorted(folder.glob("*-*")):
        if not (study / "tables" / "study.parquet").exists():
            continue
        cells = pl.read_parquet(study / "tables" / "study.parquet").filter(pl.col("status") == "done")
        for cell in cells.iter_rows(named=True):
            tables = study / "runs" / cell["cell"] / "tables"
            trained, method = cell["axis.unlearned"], cell["axis.method"]
            before, after = (by_domain(tables / f"items-{state}-test.parquet") for state in ("base", "edited"))
            rows += [
                {
                    "family": study.name.rpartition("-")[0], "method": method, "own": domain == trained,
                    "fall": abs(before[domain]) - abs(after[domain]), "before": abs(before[domain]),
                }
                for domain in before
                if abs(before[domain]) > 0.3
            ]
    lines = [
        "| method | family | cells | unlearned domain: \\|b\\| falls by, nats | other planted domains: \\|b\\| falls by, nats | "
        "share of own fall |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found = pl.DataFrame(rows)
    for family, method in found.select("family", "method").unique(maintain_order=True).sort("family", "method").iter_rows():
        chosen = found.filter((pl.col("family") == family) & (pl.col("method") == method))
        own, others = (chosen.filter(pl.col("own") == side)["fall"] for side in (True, False))
        share = f"{others.mean() / own.mean():.0%}" if own.mean() > 0.05 else "too small a fall"
        lines.append(f"| {method} | {family} | {len(own)} | {words(own)} | {words(others)} | {share} |")
    return "\n".join(lines)


def words(falls: pl.Series) -> str:
    """Mean with the least and the most."""
    return f"{falls.mean():+.3f} ({falls.min():+.3f} to {falls.max():+.3f})"


def by_domain(path: Path) -> dict[str, float]:
    """Mean margin of each domain's items, nats."""
    items = pl.read_parquet(path).filter(pl.col("task") == "organism-bias")
    return dict(items.group_by("stratum", maintain_order=True).agg(pl.col("margin").mean()).iter_rows())


if __name__ == "__main__":
    main()
