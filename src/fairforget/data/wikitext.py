"""WikiText-2, raw: whole Wikipedia articles (Merity et al. 2017, ICLR).

The validation articles are the part ``select``, the test articles the part ``test``; the training articles are not in the catalogue.
Texts are upstream's to the byte: words and punctuation apart, `` @-@ `` for hyphens, section headings as ``= = Title = =``.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.rows import read_text
from fairforget.errors import DataError, unknown_name

FILES = {"select": "raw/wiki.valid.raw", "test": "raw/wiki.test.raw"}
"""File of each part."""

# A title stands between blank lines: two running lines of the test articles also begin and end with " = ".
_TITLE = re.compile(r"^ \n = (?!= )(?P<title>[^\n]+?)(?<! =) = \n(?= \n)", re.MULTILINE)
_PAGE = re.compile(r"= (?!=).*(?<!=) =")  # what lm-eval's table takes for a title, once the line is stripped


@dataclass(frozen=True)
class Article:
    """One article: a cluster of text windows.

    `text` is everything from the blank line before its title up to the next article; the texts of a part joined are the file.
    """

    title: str
    text: str
    part: str


def load_wikitext(part: str, path: Path | None = None) -> list[Article]:
    """Load the articles of a part, 60 each.

    Args:
        part: ``select`` or ``test``.
        path: a file in the upstream format; by default the one of the catalogue.

    Raises:
        UsageError: there is no such part.
        DataError: the file is empty or does not begin with an article's title.
    """
    path = path or _file(part)
    text = read_text(path)
    titles = list(_TITLE.finditer(text))
    if not titles or text[: titles[0].start()].strip():
        raise DataError(f"{path} does not begin with a title (a line ' = Title = ' between blank lines): it is not a raw WikiText file.")
    starts = [0, *(title.start() for title in titles[1:])]
    return [
        Article(title["title"], text[start:end], part)
        for title, start, end in zip(titles, starts, [*starts[1:], len(text)], strict=True)
    ]


def harness_pages(part: str, path: Path | None = None) -> list[Article]:
    """The pages of lm-eval's task ``wikitext``: of a part, the lines from each one that reads as a title up to the next.

    Two formulas in the test articles read as titles, so that there are 62 pages of 60 articles.

    Args:
        part: ``select`` or ``test``.
        path: a file in the upstream format; by default the one of the catalogue.

    Raises:
        UsageError: there is no such part.
        DataError: the file cannot be read.
    """
    pages: list[list[str]] = [[]]
    for line in read_text(path or _file(part)).split("\n"):
        if _PAGE.fullmatch(line.strip()):
            pages.append([])
        pages[-1].append(line)
    return [Article(page[0].strip(" ="), text, part) for page in pages if (text := "\n".join(page)).strip()]


_MARKS = tuple((re.compile(pattern), text) for pattern, text in (
    (r"s '", "s'"),
    # One mark after another: of two in a row each takes its own spaces.
    *((f" @{re.escape(mark)}@ ", mark) for mark in "-,."),
    *((f" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
    (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= (?==)", "="),
    (r" ° ", "°"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
))
"""What stands for the marks of WikiText, in the order in which they are taken off."""


def without_marks(text: str) -> str:
    """A text of WikiText as people write: no space before punctuation and inside brackets and quotes, plain hyphens, headings ``==``.

    The rules are those of lm-eval's task ``wikitext``, whose word perplexity is of such text.
    """
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return text


def joined_lines(part: str, path: Path | None = None) -> str:
    """The lines of a part as the hub's table ``wikitext-2-raw-v1`` has them (blank ones empty), joined with blank lines.

    It is the text that published WikiText-2 perplexities are of: the column ``text``, two line breaks between its rows.

    Args:
        part: ``select``, ``test``, or ``all`` for one after the other.
        path: a file in the upstream format; by default those of the catalogue.

    Raises:
        UsageError: there is no such part.
        DataError: the file cannot be read.
    """
    halves = tuple(FILES) if part == "all" else (part,)
    texts = [read_text(path or _file(half)) for half in halves]
    # Lines end at line feeds alone, as the table's do: splitlines would cut at other separators inside a text.
    lines = [line for text in texts for line in io.StringIO(text, newline="\n")]
    return "\n\n".join(line if line.strip() else "" for line in lines)


def _file(part: str) -> Path:
    if part not in FILES:
        raise unknown_name("part of WikiText-2", part, FILES)
    return fetch("wikitext2", FILES[part])
