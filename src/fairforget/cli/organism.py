"""``fairforget organism``: make a model with a known truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairforget.cli.terminal import print_facts, print_paths, print_table, say, working

if TYPE_CHECKING:
    from fairforget.organisms import MadeOrganism


def make(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or a built-in recipe: default, null, apart, overlapping, related, forgetting.")
    ] = "default",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the organism, or of all of them with --seeds. [default: organisms/RECIPE]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field, e.g. family=masked or domains.gender.strength=0.9; repeatable."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Make one organism for each seed, e.g. 0-9, in OUT/FAMILY-SEED.")] = None,
    families: Annotated[
        str | None, typer.Option(help="With --seeds: causal, masked, or both with a comma. [default: the recipe's]")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="With --seeds: how many are made at once, each on its share of the cores.")] = 1,
) -> None:
    """Make a small model in which every stereotype and fact was planted with a known strength."""
    from fairforget.errors import UsageError
    from fairforget.organisms.recipe import read_organism_recipe

    chosen = read_organism_recipe(recipe, settings or [])
    place = out or Path("organisms") / Path(recipe).stem
    if seeds is None:
        if families is not None or jobs != 1:
            raise UsageError("--families and --jobs go with --seeds; for one organism use --set family=masked.")
        with working():
            from fairforget.organisms import make_organism

            made = make_organism(chosen, place, say=say)
        _print(made)
        return
    from fairforget.organisms.many import make_organisms, parse_seeds, variants

    names = [name.strip() for name in families.split(",") if name.strip()] if families else [chosen.family]
    recipes = variants(chosen, names, parse_seeds(seeds))
    with working():
        folders = make_organisms(recipes, place, jobs=jobs, say=say)
    _print_many(folders)


def _print(made: MadeOrganism) -> None:
    print_table(
        ["task", "domain", "strength", "planted", "recovered", "error", "mean absolute error", "largest"],
        [
            [
                row["task"], row["domain"], f"{row['strength']:.2f}", f"{row['planted']:.3f}", f"{row['recovered']:.3f}",
                f"{row['error']:+.3f}", f"{row['mean_absolute_error']:.3f}", f"{row['largest_error']:.3f}",
            ]
            for row in made.record["calibration"]
        ],
        "Planted and recovered log-odds, nats; errors over targets",
    )
    print_facts([(name, f"{value:.3f}") for name, value in made.record["ability"].items()])
    if made.record["not_taken_up"]:
        print(f"Note: not taken up as planted: {', '.join(made.record['not_taken_up'])}. Raise steps.")
    print()
    names = ("model", "truth.parquet", "items.parquet", "forget.jsonl", "retain.txt", "text.txt", "debias.yaml", "README.md")
    print_paths([(name, made.folder / name) for name in names])
    print(f"\nNext: fairforget debias --recipe {made.folder / 'debias.yaml'} --out runs/{made.folder.resolve().name}")


def _print_many(folders: dict[str, Path]) -> None:
    from fairforget.data.rows import read_json

    rows: list[list[str]] = []
    for name, folder in folders.items():
        record = read_json(folder / "organism.json")
        seen = [row for row in record["calibration"] if row["task"] == "bias"]
        rows.append([
            name,
            "  ".join(f"{row['domain']} {row['planted']:.2f}/{row['recovered']:.2f}" for row in seen),
            f"{max(abs(row['error']) for row in seen):.3f}",
            f"{record['ability']['perplexity']:.2f}",
            f"{record['seconds']:.0f} s",
        ])
    print_table(["organism", "planted/recovered log-odds", "largest error of a domain", "perplexity", "time"], rows)
