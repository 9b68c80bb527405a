"""``python -m cdir_embedded``: run the embedded deployment for the home in ``CDIR_HOME``."""

from __future__ import annotations

import argparse
import functools
import gc
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="cdir_embedded", description="Run cdir in one process on this machine.")
    parser.add_argument("--listen", metavar="HOST:PORT", help="serve on this address too, besides the home's socket")
    parser.add_argument("--new-catalog", action="store_true", help="begin an empty catalog where the home's is gone")
    options = parser.parse_args()

    # What is loaded here stays for good. Looking through it for garbage again and again is a sixth of the time that the
    # first command after a start waits.
    gc.disable()
    from cdir_embedded.daemon import run
    from cdir_runtime.service import run_service

    gc.freeze()
    gc.enable()

    start = functools.partial(run, listen=options.listen, new_catalog=options.new_catalog)
    return run_service("daemon", start, patience=8.0)


if __name__ == "__main__":
    sys.exit(main())
