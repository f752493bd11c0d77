"""``python -m optzoo``: the same as the command ``optzoo``."""

import sys

from optzoo.compare.cli import main

if __name__ == "__main__":
    sys.exit(main())
