"""The entry of ``cdir`` and of ``python -m cdir.cli``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from cdir.cli.main import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # even before there was anything to interrupt
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
