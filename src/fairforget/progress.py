"""One progress display for long work: what is being done, how far it is, how long is left.

Libraries of this package call :func:`track` or :func:`task`; nothing is drawn unless a front end has entered :func:`display`, so that
Python users and tests get silence and the command line gets bars.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

Element = TypeVar("Element")
Advance = Callable[[float], None]

_active: ContextVar[Any] = ContextVar("progress", default=None)


class _LineProgress:
    """Progress as plain lines for logs and pipes: one line when a task starts and ends, and one every half minute between."""

    def __init__(self) -> None:
        self.tasks: dict[int, tuple[str, float, float, float, float]] = {}

    def add_task(self, description: str, total: float) -> int:
        number = len(self.tasks)
        now = time.monotonic()
        self.tasks[number] = (description, total, 0.0, now, now)
        print(f"… {description}", file=sys.stderr, flush=True)
        return number

    def update(self, number: int, *, advance: float) -> None:
        description, total, done, start, said = self.tasks[number]
        done += advance
        now = time.monotonic()
        if now - said > 30 and done:
            left = (now - start) / done * max(total - done, 0)
            print(f"… {description}: {100 * done / max(total, 1e-9):.0f} %, about {left:.0f} s left", file=sys.stderr, flush=True)
            said = now
        self.tasks[number] = (description, total, done, start, said)

    def remove_task(self, number: int) -> None:
        description, _, _, start, _ = self.tasks[number]
        print(f"✓ {description} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)


@contextlib.contextmanager
def display(quiet: bool = False) -> Generator[None]:
    """Draw progress while the block runs: bars on a terminal, lines elsewhere, nothing when `quiet`, inside another display too."""
    if quiet:
        token = _active.set(None)
        try:
            yield
        finally:
            _active.reset(token)
        return
    if not sys.stderr.isatty():
        token = _active.set(_LineProgress())
        try:
            yield
        finally:
            _active.reset(token)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("[progress.description]{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bars:
        token = _active.set(bars)
        try:
            yield
        finally:
            _active.reset(token)


@contextlib.contextmanager
def task(description: str, total: float) -> Generator[Advance]:
    """Show one task; the yielded function advances it by a number of units of `total`."""
    active = _active.get()
    if active is None:
        yield lambda _: None
        return
    number = active.add_task(description, total=total)
    try:
        yield lambda amount: active.update(number, advance=amount)
    finally:
        active.remove_task(number)


def track(elements: Iterable[Element], description: str, total: int) -> Iterator[Element]:
    """Iterate with a progress display, one unit per element."""
    with task(description, total) as advance:
        for element in elements:
            yield element
            advance(1)
