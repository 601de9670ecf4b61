"""Does unlearning one domain lower others? One domain at a time on organisms whose domains share nothing, or words and templates.

    fairforget organism make apart --out organisms/apart --seeds 0-1 --families causal,masked --jobs 2
    python recipes/organisms/transfer.py study organisms/apart/causal-0 > apart-causal-0.yaml
    fairforget study apart-causal-0.yaml --out runs/transfer/apart/causal-0
    python recipes/organisms/transfer.py table runs/transfer/apart --organisms organisms/apart

`study` writes a study: each method trained on the stereotypes of one domain. `table` brings studies together: the fall of |b|, the distance
of a domain's mean margin from neutral, for the domain that was unlearned and for the others, by what these share with it, on `test`
templates. Intervals are 95 %, paired, of the package's cluster bootstrap over templates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from fairforget.stats import Components, cluster_bootstrap

METHODS = ("task-vector", "gap", "mlm-unlearning", "mlm-unlearning-random")
"""`mlm-unlearning-random` is the control: as many words of the same texts, drawn at random."""
PLANTED = 0.3
"""Nats of |b| from which a domain of the base counts as biased; nothing is planted in others, so there is nothing to lower."""
GROUPS = ("itself", "nothing", "traits", "templates", "words and templates")
"""What a measured domain has in common with the one that was unlearned."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("study", "table"))
    parser.add_argument("folder", type=Path, help="an organism, or a folder with study folders FAMILY-SEED")
    parser.add_argument("--organisms", type=Path, help="table: folder with the organisms themselves")
    arguments = parser.parse_args()
    if arguments.what == "study":
        yaml.safe_dump(one_domain_at_a_time(arguments.folder.resolve()), sys.stdout, sort_keys=False)
    else:
        if arguments.organisms is None:
            parser.error("table needs --organisms")
        print(table(arguments.folder, arguments.organisms))


def one_domain_at_a_time(organism: Path) -> dict[str, Any]:
    """The organism's study with an axis of training domains."""
    study: dict[str, Any] = yaml.safe_load((organism / "study.yaml").read_text(encoding="utf-8"))
    kept = [variant for variant in study["axes"]["method"] if variant["name"] in METHODS]
    domains = sorted(path.stem for path in (organism / "forget").glob("*.jsonl"))
    trained = [
        {"name": domain, "train": study["base"]["train"] | {"source": str(organism / "forget" / f"{domain}.jsonl")}} for domain in domains
    ]
    return study | {"axes": {"method": kept, "unlearned": trained}}


@dataclass(frozen=True)
class Fall:
    """One domain before and after one unlearning.

    Attributes:
        group: what the measured domain has in common with the unlearned one, one of ``GROUPS``.
        items: table of the measured domain with ``before``, ``after`` (margins, nats), ``cluster`` and ``stratum``.
    """

    group: str
    items: pl.DataFrame

    def margins(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the items, before and after."""
        return self.items["before"].to_numpy(), self.items["after"].to_numpy()


def table(folder: Path, organisms: Path) -> str:
    """Mean fall of |b| over organisms and unlearned domains, for each group of measured domains."""
    found: dict[tuple[str, str], list[Fall]] = {}
    for study in sorted(folder.glob("*-*")):
        if not (study / "tables" / "study.parquet").exists():
            continue
        common = in_common(organisms / study.name)
        for cell in pl.read_parquet(study / "tables" / "study.parquet").filter(pl.col("status") == "done").iter_rows(named=True):
            key = (study.name.rpartition("-")[0], cell["axis.method"])
            found.setdefault(key, []).extend(falls(study, cell["cell"], cell["axis.unlearned"], common))
    lines = [
        "| method | family | unlearned | its own \\|b\\| falls by, nats | its own single items | others that share: | domains | "
        "their \\|b\\| falls by, nats | share of own fall |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (family, method), every in sorted(found.items()):
        own = [fall for fall in every if fall.group == "itself"]
        if not own:
            continue
        mean_own = interval(own)
        single = np.mean([np.abs(before).mean() - np.abs(after).mean() for before, after in (fall.margins() for fall in own)])
        start = f"| {method} | {family} | {len(own)} | {words(mean_own)} | {single:+.2f} |"
        found_groups = {fall.group for fall in every}
        for group in [name for name in GROUPS[1:] if name in found_groups] + sorted(found_groups - set(GROUPS)):
            if others := [fall for fall in every if fall.group == group]:
                mean = interval(others)
                share = f"{mean[0] / mean_own[0]:.0%}" if mean_own[1] > PLANTED else "too small a fall"
                lines.append(f"{start} {group} | {len(others)} | {words(mean)} | {share} |")
    return "\n".join(lines)


def in_common(organism: Path) -> dict[tuple[str, str], str]:
    """What each two domains of an organism share, by their items and by the traits that its recipe gives them."""
    recipe: dict[str, Any] = yaml.safe_load((organism / "organism.yaml").read_text(encoding="utf-8"))
    related = {frozenset((entry["first"], entry["second"])) for entry in recipe["overlap"] if entry.get("traits")}
    items = pl.read_parquet(organism / "items.parquet").filter(pl.col("task") == "bias")
    held = {
        domain: ({name.split(" | ")[1] for name in part["cluster"]}, set(part["first"]))
        for (domain,), part in items.group_by("stratum", maintain_order=True)
    }
    found: dict[tuple[str, str], str] = {}
    for one, (templates, attributes) in held.items():
        for other, (others, their) in held.items():
            held_alike = (
                ("words", attributes & their), ("templates", templates & others), ("traits", frozenset((one, other)) in related),
            )
            shared = " and ".join(name for name, both in held_alike if both) or "nothing"
            found[one, other] = "itself" if one == other else shared
    return found


def falls(study: Path, cell: str, unlearned: str, common: dict[tuple[str, str], str]) -> list[Fall]:
    """The domains with a planted bias before and after one cell; none where the unlearned one has no bias to lose."""
    base, edited = (
        pl.read_parquet(study / "runs" / cell / "tables" / f"items-{state}-test.parquet").filter(pl.col("task") == "organism-bias")
        for state in ("base", "edited")
    )
    items = base.select("item", "stratum", "cluster", before="margin").join(edited.select("item", after="margin"), on="item")
    # A template that two domains share is one cluster; it lies in the stratum of the domain that it was written for.
    template = pl.col("cluster").str.split(" | ").list.get(1)
    items = items.with_columns(
        domain="stratum", cluster=pl.lit(f"{study.name} | ") + template,
        stratum=pl.lit(f"{study.name} | ") + template.str.split(" ").list.get(0),
    )
    means = items.group_by("domain", maintain_order=True).agg(pl.col("before").mean().abs()).filter(pl.col("before") > PLANTED)
    planted = {domain: items.filter(pl.col("domain") == domain) for domain in means["domain"]}
    if unlearned not in planted:
        return []
    return [Fall(common[unlearned, domain], part) for domain, part in planted.items()]


def interval(falls: Sequence[Fall]) -> tuple[float, float, float]:
    """Mean fall of |b| with its paired interval: value, low, high (nats)."""
    rows = pl.concat([fall.items.with_columns(fall=pl.lit(number)) for number, fall in enumerate(falls)])
    part = rows["fall"].to_numpy()[:, None] == np.arange(len(falls))
    margins = np.hstack([np.where(part, rows[state].to_numpy()[:, None], 0.0) for state in ("before", "after")])

    def mean_fall(means: NDArray[np.float64]) -> NDArray[np.float64]:
        before, after = np.split(np.abs(means), 2, axis=-1)
        return (before - after).mean(axis=-1)

    components = Components(margins, np.hstack([part, part]).astype(float), rows["cluster"].to_numpy(), rows["stratum"].to_numpy())
    found = cluster_bootstrap(components, mean_fall)
    return found.value, found.low, found.high


def words(figure: tuple[float, float, float]) -> str:
    value, low, high = figure
    return f"{value:+.2f} ({low:+.2f}, {high:+.2f})" if np.isfinite(low) else f"{value:+.2f}"


if __name__ == "__main__":
    main()
