"""Neural collapse of word classes: how states sit around a word's mean state, and the means around the words' output rows.

Sources: Xu et al. 2025 (arXiv 2410.04472), Wu and Papyan 2024 (arXiv 2405.17767).
"""

from fairforget.geometry.collapse import STATISTICS, Statistic, collapse_statistics, linearised
from fairforget.geometry.measure import Geometry, Window, measure_geometry
from fairforget.geometry.moments import ClassMoments
from fairforget.geometry.sites import Pairing, Site, decoder_inputs, output_matrix, paired_tokens, tokens_to_pair
from fairforget.geometry.words import WordSet, control_words, full_vocabulary, listed_words

__all__ = [
    "STATISTICS",
    "ClassMoments",
    "Geometry",
    "Pairing",
    "Site",
    "Statistic",
    "Window",
    "WordSet",
    "collapse_statistics",
    "control_words",
    "decoder_inputs",
    "full_vocabulary",
    "linearised",
    "listed_words",
    "measure_geometry",
    "output_matrix",
    "paired_tokens",
    "tokens_to_pair",
]
