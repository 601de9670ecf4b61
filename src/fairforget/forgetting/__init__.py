"""Forgetting: the ledger of two audits, item by item. Tables only; no torch."""

from fairforget.forgetting.ledger import LEDGER_SCHEMA, balance, build_ledger, summary

__all__ = ["LEDGER_SCHEMA", "balance", "build_ledger", "summary"]
