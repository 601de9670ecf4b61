"""Differentiable terms of a training loss, one file per family; methods are compositions of them."""

from fairforget.objectives.ascent import Ascent
from fairforget.objectives.collapse import Collapse
from fairforget.objectives.distillation import CrossEntropyUnlearning, Undial
from fairforget.objectives.domains import DomainTurns, SidesStream, Turned
from fairforget.objectives.drift import HiddenMatch, KLToBase, kl_divergence
from fairforget.objectives.elastic import ElasticWeightConsolidation, L2ToBase
from fairforget.objectives.fairness import EvenDivergence, SquaredGap, VocabularyDivergence
from fairforget.objectives.likelihood import CrossEntropy, row_log_probabilities, token_log_probabilities
from fairforget.objectives.misdirection import Misdirection
from fairforget.objectives.orthogonal import OrthogonalFactors
from fairforget.objectives.preference import DirectPreference, NegativePreference, SimpleNegativePreference

__all__ = [
    "Ascent",
    "Collapse",
    "CrossEntropy",
    "CrossEntropyUnlearning",
    "DirectPreference",
    "DomainTurns",
    "ElasticWeightConsolidation",
    "EvenDivergence",
    "HiddenMatch",
    "KLToBase",
    "L2ToBase",
    "Misdirection",
    "NegativePreference",
    "OrthogonalFactors",
    "SidesStream",
    "SimpleNegativePreference",
    "SquaredGap",
    "Turned",
    "Undial",
    "VocabularyDivergence",
    "kl_divergence",
    "row_log_probabilities",
    "token_log_probabilities",
]
