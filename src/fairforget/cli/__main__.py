"""``python -m fairforget.cli``."""

import sys

from fairforget.cli import main

if __name__ == "__main__":
    sys.exit(main())
