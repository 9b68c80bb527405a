"""The entry of ``cdir`` and of ``python -m cdir.cli``."""

from __future__ import annotations

import sys

from cdir.cli.main import run

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
