"""What commands print: results on stdout, what is being done on stderr, in our words alone."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fairforget.cli.running import debugging
from fairforget.progress import display

if TYPE_CHECKING:
    import polars as pl

PIPE_WIDTH = 132
"""Columns of a table where the output is no terminal."""


def say(text: str) -> None:
    """Tell what is being done, on stderr."""
    print(text, file=sys.stderr, flush=True)


def quiet_libraries() -> None:
    """Silence the bars, load reports and warnings of transformers, so that what is printed is ours."""
    if debugging():
        return
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def working() -> Generator[None]:
    """Show progress while the block runs, and nothing of other libraries."""
    quiet_libraries()
    with display():
        yield


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table on stdout; cells are wrapped to the terminal, never cut.

    Args:
        headers: one per column.
        rows: cells as text, taken literally.
        title: a line above.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values on stdout, one to a line, values below one another."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        print(f"{name:<{width}}  {value}")


def print_metrics(metrics: pl.DataFrame) -> None:
    """Print the figures over all items with their intervals, benchmark by benchmark, each with its protocol and counts."""
    from fairforget.report.comparisons import ALL, by_task, comparisons, reported_part

    rows = comparisons(metrics)
    part = reported_part(rows)
    for (_, protocol, _), group in by_task(row for row in rows if row.group == ALL and row.part == part).items():
        paired = any(row.difference is not None for row in group)
        states = ("base", "edited", "difference") if paired else ("base",)
        headers = ("figure", "before", "after", "change (paired)", "reading", "counts") if paired else ("figure", "value", "counts")
        print_table(
            headers,
            [
                [
                    row.metric_name,
                    *(f"{row.text(state)}\n{row.interval_text(state)}".rstrip() for state in states),
                    *([row.reading] if paired else []),
                    row.counts_text,
                ]
                for row in group
            ],
            f"{group[0].task_name}, {part} part, protocol: {protocol} (95 % intervals in brackets)",
        )


def print_verdict(headline: str, sentences: Sequence[str]) -> None:
    """Print a verdict in the words of the page."""
    print(f"\n{headline}\n")
    for sentence in sentences:
        print(f"  {sentence}")
    print()


def print_paths(paths: Sequence[tuple[str, Path]]) -> None:
    """Print where things are; what is not there is left out."""
    print_facts([(name, str(path)) for name, path in paths if path.exists()])


def size_text(size: float) -> str:
    """Bytes as "12.3 MB" (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
