"""The command line: one file per verb, each parses, calls one workflow and prints.

Importing this package imports nothing heavy; every verb imports what it needs when it runs, so that ``fairforget --help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence


def prepare_environment() -> None:
    """Set what must be set before torch and transformers are imported; what the user has set stays."""
    # Threads that wait for work by spinning take the processor from whatever else runs: on two cores that halves the speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Where the extra `quantized` is installed peft imports bitsandbytes, which on a processor warns of a missing kernel each time.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for a mistake in what was typed, 130 for Ctrl-C.
    """
    prepare_environment()
    from fairforget.cli.running import guarded

    def run() -> int | None:
        from fairforget.cli.application import application

        return application(sys.argv[1:] if arguments is None else arguments)

    return guarded(run)
