"""The only place where the rooms meet: audit, debias, compare."""
