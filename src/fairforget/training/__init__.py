"""The one training loop: transformers' Trainer over composed objectives."""

from fairforget.training.monitor import Monitor, StopCondition
from fairforget.training.objective import IGNORED, Batch, Objective, Role
from fairforget.training.streams import AnswerStream, PairStream, Row, Stream, StreamDataset, TextStream
from fairforget.training.trainer import ObjectiveTrainer, train

__all__ = [
    "IGNORED",
    "AnswerStream",
    "Batch",
    "Monitor",
    "Objective",
    "ObjectiveTrainer",
    "PairStream",
    "Role",
    "Row",
    "StopCondition",
    "Stream",
    "StreamDataset",
    "TextStream",
    "train",
]
