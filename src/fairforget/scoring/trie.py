"""The token trie of a set of causal requests: what is common to several of them runs through the model once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from fairforget.scoring.requests import ContinuationRequest

DEEPEST = 100
"""Branchings on the way to a leaf; what is common below that is computed again. Texts that branch at every word stay within the stack."""


class Target(NamedTuple):
    """One log-probability to read: after the token at `offset` of a segment, of token `token`, for place `place` of request `request`.

    The most likely token's goes to place `best_place`, where there is one.
    """

    offset: int
    token: int
    request: int
    place: int
    best_place: int | None = None


@dataclass
class Segment:
    """A run of tokens without a branch worth taking; its children continue it from its cache."""

    tokens: tuple[int, ...]
    depth: int
    targets: list[Target] = field(default_factory=list)
    children: list[Segment] = field(default_factory=list)

    def subtree_tokens(self) -> int:
        """Tokens of this segment and of all below it."""
        return len(self.tokens) + sum(child.subtree_tokens() for child in self.children)

    def requests(self) -> set[int]:
        """Indices of the requests that this subtree answers, wholly or in part."""
        found = {target.request for target in self.targets}
        for child in self.children:
            found |= child.requests()
        return found


@dataclass
class _Path:
    tokens: tuple[int, ...]
    requests: list[int]


def build_trie(requests: Sequence[ContinuationRequest], *, share: bool = True, minimum: int = 2) -> list[Segment]:
    """Segments that together answer all requests, in the order of their tokens.

    The last token of a continuation is never fed: nothing is read after it. So continuations that differ in their last token alone are
    one input, and a request whose input begins another's is answered by that one.

    Args:
        requests: what is asked; equal requests should have been made one before.
        share: branch at all; if False every distinct input is one segment (equal inputs are still run once).
        minimum: a common stretch shorter than this is computed again rather than branched at; branching has a price. (Counted in padded
            tokens and forwards, 2 is the best for all of CrowS-Pairs and within 6 % of the best for BBQ and for small samples of either.)
    """
    by_input: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        whole = request.context + request.continuation
        if len(whole) > 1 and request.continuation:
            by_input.setdefault(whole[:-1], []).append(index)
    paths = [_Path(tokens, by_input[tokens]) for tokens in sorted(by_input)]
    if share:
        paths = _absorb_beginnings(paths)
    roots: list[Segment] = []
    _grow(paths, 0, minimum, roots, DEEPEST if share else 0)
    for root in roots:
        _place_targets(root, requests)
    return roots


def _absorb_beginnings(paths: list[_Path]) -> list[_Path]:
    """Hand the requests of an input that begins the next one (in sorted order) to that one."""
    kept: list[_Path] = []
    for path in reversed(paths):
        if kept and kept[-1].tokens[: len(path.tokens)] == path.tokens:
            kept[-1].requests.extend(path.requests)
        else:
            kept.append(path)
    return kept[::-1]


def _common(first: tuple[int, ...], last: tuple[int, ...], start: int) -> int:
    """Length of the common beginning of two inputs that are known to agree on `start` tokens; in sorted order, of all between them."""
    end = start
    limit = min(len(first), len(last))
    while end < limit and first[end] == last[end]:
        end += 1
    return end


def _grow(paths: list[_Path], base: int, minimum: int, into: list[Segment], branchings: int) -> None:
    """Append the segments for inputs that agree on, and have run, `base` tokens, branching at most so many times on the way down."""
    width = base + minimum
    if branchings:
        groups = [list(group) for _, group in groupby(paths, key=lambda path: path.tokens[base:width])]
    else:
        groups = [[path] for path in paths]
    for group in groups:
        shared = len(group) > 1 and len(group[0].tokens) >= width
        if not shared:
            for path in group:
                segment = Segment(path.tokens[base:], base)
                segment.targets = [Target(0, 0, request, -1) for request in path.requests]
                into.append(segment)
            continue
        end = _common(group[0].tokens, group[-1].tokens, base)
        segment = Segment(group[0].tokens[base:end], base)
        _grow(group, end, minimum, segment.children, branchings - 1)
        into.append(segment)


def _place_targets(root: Segment, requests: Sequence[ContinuationRequest]) -> None:
    """Turn the request marks at the leaves into targets on the segment that holds each place; places shared by requests stay many."""
    stack: list[tuple[Segment, tuple[Segment, ...]]] = [(root, ())]
    leaves: list[tuple[tuple[Segment, ...], list[int]]] = []
    while stack:
        segment, above = stack.pop()
        line = (*above, segment)
        if marks := [target.request for target in segment.targets]:
            leaves.append((line, marks))
            segment.targets = []
        stack.extend((child, line) for child in segment.children)
    for line, marks in leaves:
        for index in marks:
            request = requests[index]
            start = len(request.context)
            for place, token in enumerate(request.continuation):
                position = start + place - 1  # the input position after which this token comes
                if position < 0:
                    continue
                segment = next(part for part in reversed(line) if part.depth <= position)
                best_place = len(request.continuation) + place if request.best else None
                segment.targets.append(Target(position - segment.depth, token, index, place, best_place))
