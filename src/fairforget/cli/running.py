"""How a command ends: every failure is a sentence on stderr and an exit code; a traceback only with ``FAIRFORGET_DEBUG=1``."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator

from fairforget.errors import FairforgetError

DEBUG_VARIABLE = "FAIRFORGET_DEBUG"
FAILED, USAGE, INTERRUPTED = 1, 2, 130

_INTERRUPTED = "Interrupted. Finished work is kept: the same command goes on where it stopped."
_NO_SPACE = (
    "There is no space left on the disk{where}: free some (fairforget cache prune helps) and run the same command again; "
    "finished work is kept."
)
_FULL_DISK = ("No space left on device", "StorageFull", "disk is full", "PytorchStreamWriter failed", "inline_container.cc")
"""What libraries that hide the system's error say when a write fails; the last two are torch.save's."""
_NO_MEMORY = (
    "There is not enough memory: close other programs, or use a smaller model, --dtype bfloat16 or a smaller method.batch_size; "
    "finished work is kept."
)
_DEFECT = (
    "Something went wrong that fairforget did not foresee ({kind}: {text}). Finished work is kept; set FAIRFORGET_DEBUG=1 to see where it "
    "happened, and please report it."
)


def debugging() -> bool:
    """Whether the user asked for tracebacks and for the words of other libraries."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command and turn whatever it raises into a sentence and an exit code.

    Args:
        command: the whole command; its return value is the exit code, None for 0.
    """
    with _interrupts() as interrupted:
        try:
            if not debugging():
                warnings.simplefilter("ignore")  # the words of other libraries; our own go through `say`
            code = command() or 0
            if code == INTERRUPTED:  # some versions of typer turn Ctrl-C into this code
                print(_INTERRUPTED, file=sys.stderr, flush=True)
            return code
        except BrokenPipeError:  # e.g. `fairforget list datasets | head`
            _discard_output()
            return FAILED
        except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001  (whatever it is, the user gets a sentence)
            # An interrupt that falls into another library's import or callback may come out as that library's error.
            sentence, code = (_INTERRUPTED, INTERRUPTED) if interrupted else describe(error)
            if debugging():
                traceback.print_exception(error)
            print(sentence, file=sys.stderr, flush=True)
            return code


def describe(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code for an error."""
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, INTERRUPTED
    if isinstance(error, FairforgetError):
        return str(error), error.exit_code
    if (usage := _usage(error)) is not None:
        return usage, USAGE
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return _NO_SPACE.format(where=f" while writing {cause.filename}" if cause.filename else ""), FAILED
        if any(word in text for word in _FULL_DISK):
            return _NO_SPACE.format(where=""), FAILED
        if isinstance(cause, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
            return _NO_MEMORY, FAILED
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror or error}.", FAILED
    return _DEFECT.format(kind=type(error).__name__, text=(str(error).strip().splitlines() or ["no message"])[0]), FAILED


def _usage(error: BaseException) -> str | None:
    """The sentence of a parse error. Its class lies in click or in typer, by typer's version, so it is known by what it can do."""
    message: Callable[[], str] | None = getattr(error, "format_message", None)
    if message is None or getattr(error, "exit_code", None) != USAGE:
        return None
    if type(error).__name__ == "NoArgsIsHelpError":
        return message()
    path = getattr(getattr(error, "ctx", None), "command_path", None) or "fairforget"
    text = message().rstrip(".")
    return f"{text}. See '{path} --help'."


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


@contextlib.contextmanager
def _interrupts() -> Generator[list[int]]:
    """Note every Ctrl-C while the block runs, and raise KeyboardInterrupt as ever."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _discard_output() -> None:
    """Let the interpreter flush its streams at exit without a second complaint."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
