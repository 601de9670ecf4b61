"""Reads a page as a browser would, for tests."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """What a browser would build: open tags with attributes, text by innermost tag, and whether tags balance."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.stack, self.unbalanced = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.texts.append((self.stack[-1] if self.stack else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def visible(self):
        return re.sub(r"\s+", " ", " ".join(data for tag, data in self.texts if tag not in ("script", "style")))
