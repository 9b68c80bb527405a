"""The entry of ``cdir`` and of ``python -m cdir.cli``."""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code."""
    # A command lives for a moment, and most of what it makes, its modules above all, stays until its end: to look
    # through that for garbage again and again, and once more at the end, is a fifth of the time of a short one.
    gc.set_threshold(50_000, 20, 20)
    try:
        from cdir.cli.main import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # even before there was anything to interrupt
        code = 130
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
