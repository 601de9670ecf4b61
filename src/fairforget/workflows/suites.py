"""Suites in a list of benchmarks: what they stand for, and what else may be named beside them."""

from __future__ import annotations

from collections.abc import Sequence

from fairforget.benchmarks import get_suite, suite_names
from fairforget.errors import UsageError
from fairforget.workflows.recipe import BenchmarkChoice


def names_a_suite(choices: Sequence[BenchmarkChoice | str]) -> bool:
    """Whether a suite is among the choices."""
    return any(_name(choice) in suite_names() for choice in choices)


def expand_suites(choices: Sequence[BenchmarkChoice | str], family: str | None) -> list[BenchmarkChoice | str]:
    """The choices with each suite replaced by its benchmarks.

    A benchmark that is named beside a suite takes the place of the suite's form of it; what two suites share is measured once.

    Args:
        choices: names or recipe entries.
        family: ``causal`` or ``masked``; None, before a model is loaded, stands for both.

    Raises:
        UsageError: a suite with settings.
    """
    taken = {_base(_name(choice)) for choice in choices if _name(choice) not in suite_names()}
    found: list[BenchmarkChoice | str] = []
    for choice in choices:
        if _name(choice) not in suite_names():
            found.append(choice)
            continue
        if not isinstance(choice, str) and choice.settings:
            raise UsageError(f"The suite {choice.name} has no settings: name the benchmark that they are for beside it, with its settings.")
        own = [(name, settings) for name, settings in get_suite(_name(choice)).of(family) if _base(name) not in taken]
        taken |= {_base(name) for name, _ in own}
        found += [BenchmarkChoice(name=name, settings=dict(settings)) for name, settings in own]
    return found


def refuse_suites(choices: Sequence[BenchmarkChoice | str], what: str) -> None:
    """Refuse suites where one list of benchmarks must do for models of several families.

    Args:
        choices: names or recipe entries.
        what: the beginning of the sentence, e.g. "A study".

    Raises:
        UsageError: one is among them.
    """
    named = next((_name(choice) for choice in choices if _name(choice) in suite_names()), None)
    if named is not None:
        raise UsageError(f"{what} names its benchmarks one by one, since the suite {named} is another list for each family of models.")


def _name(choice: BenchmarkChoice | str) -> str:
    return (choice if isinstance(choice, str) else choice.name).strip()


def _base(name: str) -> str:
    return name.partition(":")[0]
