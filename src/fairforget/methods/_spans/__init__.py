"""Finders of the harmful words of a text: a lexicon, attribution, the contrast with a hate-tuned model, a chat model, annotators."""

from fairforget.methods._spans.base import Span, SpanFinder, cached_spans, random_spans, span_jaccard, word_spans

__all__ = ["Span", "SpanFinder", "cached_spans", "random_spans", "span_jaccard", "word_spans"]
