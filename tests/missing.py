"""Names what the tests could not start on this machine, and how to get it. Exits 1 for that in CI, else 0."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import sys
from pathlib import Path

import servers

ROOT = Path(__file__).parent.parent


def lacking() -> list[str]:
    """Return one line for each thing that is not installed."""
    modules = [importlib.import_module(f"servers.{module.name}") for module in pkgutil.iter_modules(servers.__path__)]
    found = [
        module.missing() for module in modules if hasattr(module, "missing") and not getattr(module, "ONLY_SLOW", False)
    ]
    if not (ROOT / ".tools/node_modules/.bin/buf").exists():
        found.append("buf (lints the protos) is missing: install Node.js with npm, then make setup")
    if shutil.which("setpriv") is None and os.geteuid() == 0:
        found.append("setpriv (runs commands as another user) is missing: apt-get install util-linux")
    return [line for line in found if line]


def main() -> int:
    """Print what is lacking."""
    lines = lacking()
    if not lines:
        return 0
    print("Not everything was tested, since something is not installed:")
    for line in lines:
        print(f"  {line}")
    return 1 if os.environ.get("CI", "").lower() in {"1", "true", "yes"} else 0


if __name__ == "__main__":
    sys.exit(main())
