"""Run by test_edits_streamed.py in a process of its own: merge an edit into a sharded folder under a limit on the address space.

Arguments: a folder with ``base`` and ``edit``, a small one like it, with which everything that is loaded lazily is loaded before the limit
falls, and the limit in bytes above what is mapped by then. Shard by shard the merge must come through; whole it must not, or the limit
would prove nothing: then this ends with the word "limited".
"""

import resource
import sys
from pathlib import Path

import torch

from fairforget.edits import WeightEdit, merged, stream_merged
from fairforget.models.load import load

big, small, allowance = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)


def whole(folder: Path) -> None:
    merged(load(folder / "base", device="cpu"), WeightEdit.load(folder / "edit"), folder / "whole")


def streamed(folder: Path) -> None:
    stream_merged(folder / "base", WeightEdit.load(folder / "edit"), folder / "streamed")


whole(small)
streamed(small)
mapped = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (mapped + allowance, mapped + allowance))
streamed(big)
try:
    whole(big)
except Exception as error:  # the libraries tell of it in several ways
    if any(word in str(error).lower() for word in ("memory", "mmap", "allocate")) or isinstance(error, MemoryError):
        print("limited")
    else:
        raise
