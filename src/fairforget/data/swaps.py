"""Counterfactual swaps: the same text about another group.

Gender words and names follow a list, pronouns follow rules (Hall Maudslay et al. 2019, "It's All in the Name", from whom also comes the
one-to-one exchange of names); for three or more groups one target per group is drawn for each text, as in Bias Bench (Meade et al. 2022).
Case, possessives and a/an are kept right. No parser is used: every whole word on the list is swapped wherever it stands, also in fixed
phrases and in names of other things.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fairforget.data.english import indefinite_article, is_determiner
from fairforget.data.words import WordList, word_list

_PRONOUN_ROWS = (("he", "she"), ("himself", "herself"))
_EXACT_PRONOUN_ROWS = (*_PRONOUN_ROWS, ("him", "her"), ("his", "her"))
_AMBIGUOUS_PRONOUNS = {"him": "her", "hers": "his", "his": "", "her": ""}

_SENTENCE_START = re.compile(r"(?:^|[.!?…][\"'”’)\]]*\s+|\n)[\"'“‘(\[]*$")
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)
_BEFORE_CAPITAL = re.compile(r"\.?\s+[^\W\d_a-z]")


@dataclass(frozen=True)
class _Entry:
    """One word of the list as it is written there, and the words that stand for it in each group."""

    written: str
    group: int
    row: tuple[str, ...]
    title: bool = False


class Swapper:
    """Swaps the groups of a word list in texts.

    With two groups each takes the place of the other. With more, every text gets a cyclic exchange of the groups, drawn from the seed and
    the text alone, so that different groups stay different and a text has the same counterfactual in any order and on any machine.

    Args:
        words: a word list or the name of one in this package.
        names: whether first names are swapped too, where the list has names.
        seed: seed of the draw; without effect for two groups.
    """

    def __init__(self, words: WordList | str = "gender", *, names: bool = True, seed: int = 0) -> None:
        chosen = word_list(words) if isinstance(words, str) else words
        self.words = chosen if names else replace(chosen, names=())
        self.seed = seed
        self._entries = _entries(self.words)
        forms = sorted({*self._entries, *(_AMBIGUOUS_PRONOUNS if self.words.pronouns else ())}, key=lambda form: (-len(form), form))
        choices = "|".join(re.escape(form).replace("'", "['’]").replace(r"\ ", r"\s+") for form in forms)
        self._pattern = re.compile(rf"(?<!\w)(?:{choices})(?!\w)", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """Same as :meth:`swap`."""
        return self.swap(text)

    def swap(self, text: str) -> str:
        """Return the text with its groups exchanged; a text without a listed word comes back unchanged."""
        target = self._draw(text)
        pieces: list[str] = []
        end = 0
        for match, entry in self._matches(text):
            before = text[end : match.start()]
            new = self._pronoun(match) if entry is None else _in_case(match, entry.written, entry.row[target[entry.group]])
            article = _ARTICLE.search(before)
            if article and indefinite_article(match[0]) != indefinite_article(new):
                before = before[: article.start()] + _other_article(article[1], new) + article[2]
            pieces += (before, new)
            end = match.end()
        return "".join((*pieces, text[end:]))

    def count(self, text: str) -> int:
        """Number of words that :meth:`swap` would exchange; methods keep only texts with at least one."""
        return sum(1 for _ in self._matches(text))

    def groups(self, text: str) -> tuple[str, ...]:
        """Names of the groups that a text names, in the order of the list."""
        found = {entry.group if entry else int(match[0].lower() in ("her", "hers")) for match, entry in self._matches(text)}
        return tuple(name for index, name in enumerate(self.words.groups) if index in found)

    @property
    def first_words(self) -> frozenset[str]:
        """First word of every entry, in small letters: a text that has none of them is unchanged by a swap."""
        forms = (*self._entries, *(_AMBIGUOUS_PRONOUNS if self.words.pronouns else ()))
        return frozenset(match[0] for form in forms if (match := re.search(r"[^\W\d_]+", form)))

    def _matches(self, text: str) -> Iterator[tuple[re.Match[str], _Entry | None]]:
        """Words that are swapped; the entry is None for pronouns that need a rule."""
        for match in self._pattern.finditer(text):
            form = _form(match[0])
            if self.words.pronouns and form in _AMBIGUOUS_PRONOUNS:
                yield match, None
                continue
            for entry in self._entries[form]:
                if _fits(match, entry):
                    yield match, entry
                    break

    def _pronoun(self, match: re.Match[str]) -> str:
        form = match[0].lower()
        new = _AMBIGUOUS_PRONOUNS[form]
        if not new:
            # The sentence is enough for the rule, and a bounded window keeps long texts linear.
            before, after = match.string[max(0, match.start() - 40) : match.start()], match.string[match.end() : match.end() + 80]
            alone, with_noun = ("hers", "her") if form == "his" else ("him", "his")
            new = with_noun if is_determiner(before, after) else alone
        return _in_case(match, form, new)

    def _draw(self, text: str) -> list[int]:
        """Target of each group: a random cycle through all of them (Sattolo's shuffle)."""
        target = list(range(len(self.words.groups)))
        generator = random.Random(f"{self.seed} {text}")
        for last in range(len(target) - 1, 0, -1):
            other = generator.randrange(last)
            target[last], target[other] = target[other], target[last]
        return target


class ExactSwapper:
    """The swap of Bias Bench as released (Meade et al. 2022, run_mlm.py and run_clm.py at aba4403), for comparison with its figures.

    A text is cut at white space and a piece is swapped if it is exactly a listed word in small letters, also with one of ``. , ? ! ; :``
    after it. Of several rows with the same word the last decides, so that "her" becomes "his" always. With three or more groups each
    group of each text draws another group by itself, so that two groups may become one.

    Args:
        words: a word list or the name of one in this package; names and titles are not used.
        seed: seed of the draw; without effect for two groups.
    """

    def __init__(self, words: WordList | str = "gender", *, seed: int = 0) -> None:
        self.words, self.seed = word_list(words) if isinstance(words, str) else words, seed
        rows = [*self.words.rows, *(_EXACT_PRONOUN_ROWS if self.words.pronouns else ())]
        self._places: dict[str, tuple[int, tuple[str, ...], str]] = {
            word.lower() + end: (group, row, end) for end in ("", *".,?!;:") for row in rows for group, word in enumerate(row)
        }

    def swap(self, text: str) -> str:
        """Return the text with listed words swapped and single spaces; a text without one comes back unchanged."""
        generator = random.Random(f"{self.seed} {text}")
        groups = range(len(self.words.groups))
        target = [generator.choice([other for other in groups if other != group]) for group in groups]
        pieces = text.split()
        swapped = [self._swapped(piece, target) for piece in pieces]
        return text if swapped == pieces else " ".join(swapped)

    def count(self, text: str) -> int:
        """Number of pieces that :meth:`swap` would exchange."""
        return sum(piece in self._places for piece in text.split())

    def _swapped(self, piece: str, target: list[int]) -> str:
        if piece not in self._places:
            return piece
        group, row, end = self._places[piece]
        return row[target[group]].lower() + end


def swap_gender(text: str, names: bool = True) -> str:
    """Return the text with male and female words exchanged.

    Args:
        text: any English text.
        names: whether first names are exchanged too ("Mary" for "John").
    """
    return _gender_swapper(names).swap(text)


@functools.cache
def _gender_swapper(names: bool) -> Swapper:
    return Swapper("gender", names=names)


def _entries(words: WordList) -> dict[str, list[_Entry]]:
    """Entries by small-letter form; titles come first, since they need a context, then rows, names and one-way words."""
    entries: dict[str, list[_Entry]] = {}

    def add(rows: tuple[tuple[str, ...], ...], title: bool = False) -> None:
        for row in rows:
            for group, word in enumerate(row):
                entries.setdefault(_form(word), []).append(_Entry(word, group, row, title))

    add(words.titles, title=True)
    add((*(_PRONOUN_ROWS if words.pronouns else ()), *words.rows, *words.names))
    for one_way, title in ((words.titles_one_way, True), (words.one_way, False)):
        for word, other in one_way:
            # Which of two groups the word belongs to follows from the word put for it.
            group = next((1 - entry.group for entry in entries.get(_form(other), ()) if entry.written == other), 1)
            entries.setdefault(_form(word), []).append(_Entry(word, group, (other, other), title))
    return entries


def _plain(word: str) -> str:
    return " ".join(word.replace("’", "'").split())


def _form(word: str) -> str:
    return _plain(word).lower()


def _fits(match: re.Match[str], entry: _Entry) -> bool:
    found = match[0]
    if entry.written != entry.written.lower() and not (_plain(found) == entry.written or found.isupper()):
        return False
    if not entry.title:
        return True
    return found[0].isupper() and _BEFORE_CAPITAL.match(match.string, match.end()) is not None


def _in_case(match: re.Match[str], written: str, new: str) -> str:
    """Give the new word the case of the word found."""
    found = match[0]
    if found.isupper() and sum(map(str.isalpha, found)) > 1:
        return new.upper()
    if written[0].isupper():
        # The capital belongs to the word, so it says nothing about the sentence unless the word begins one.
        begins = new[0].islower() and _SENTENCE_START.search(match.string[max(0, match.start() - 8) : match.start()])
        return new[0].upper() + new[1:] if begins else new
    if found[0].isupper():
        titled = all(word[0].isupper() for word in found.split()) and " " in found
        return " ".join(word[0].upper() + word[1:] for word in new.split(" ")) if titled else new[0].upper() + new[1:]
    return new


def _other_article(article: str, word: str) -> str:
    new = indefinite_article(word)
    if not article[0].isupper():
        return new
    return new.upper() if word.isupper() else new.capitalize()
