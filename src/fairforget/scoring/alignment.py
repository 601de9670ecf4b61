"""Which tokens two inputs share and in which they differ."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def shared_positions(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """Places of the tokens that two inputs share, special tokens at both ends left out (Nangia et al., ``mask_unigram``)."""
    blocks = difflib.SequenceMatcher(None, first, second).get_matching_blocks()
    pairs = [(block.a + step, block.b + step) for block in blocks for step in range(block.size)][1:-1]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def changed_positions(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """Places of the tokens in which two inputs differ (bias-bench, ``_get_span(..., "diff")``); either list may be empty."""
    codes = [code for code in difflib.SequenceMatcher(None, first, second).get_opcodes() if code[0] != "equal"]
    return [place for code in codes for place in range(code[1], code[2])], [place for code in codes for place in range(code[3], code[4])]
