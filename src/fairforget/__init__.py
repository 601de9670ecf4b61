"""fairforget."""
