"""The page and the model card of a run: tables in, files out, no model and no torch.

    from fairforget.report import model_card, write_report

Both read only the run folder (``run.json`` and ``tables/``), so a page can be made again years later, on another machine.
"""

from fairforget.report.card import model_card
from fairforget.report.page import write_report

__all__ = ["model_card", "write_report"]
