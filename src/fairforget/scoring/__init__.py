"""Text to log-probabilities, fast, each value paid for once."""

from fairforget.scoring.causal import Counts
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest, Request
from fairforget.scoring.scorer import Scorer
from fairforget.scoring.store import ScoreStore

__all__ = ["ContinuationRequest", "Counts", "MaskedRequest", "Request", "ScoreStore", "Scorer"]
