"""After a run of ``make conformance``: which server passed which case, as a table."""

from __future__ import annotations

import os
import re
from collections import defaultdict

import pytest

_CASE = re.compile(r"adapters/test_(?P<file>\w+)\.py::Test(?P<server>\w+)::test_conforms\[(?P<case>\w+)\]$")
_MARKS = {"passed": "+", "skipped": "·", "failed": "FAIL", "error": "FAIL"}
_NEEDS = re.compile(r"needs ([^'\"]+)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of every server that was tested, when ``CDIR_CONFORMANCE_TABLE`` asks for it."""
    if not os.environ.get("CDIR_CONFORMANCE_TABLE"):
        return
    marks: dict[str, dict[str, str]] = defaultdict(dict)
    needs: dict[str, str] = {}
    for outcome, mark in _MARKS.items():
        for report in terminalreporter.stats.get(outcome, []):
            found = _CASE.search(report.nodeid)
            if found is None:
                continue
            kind = found["file"].removesuffix("_old").removesuffix("_servers")
            marks[found["case"]][f"{kind}: {found['server']}"] = mark
            reason = _NEEDS.search(str(report.longrepr)) if outcome == "skipped" else None
            if reason is not None:
                needs[found["case"]] = reason[1].strip()
    if marks:
        for line in _table(marks, needs):
            terminalreporter.write_line(line)


def _table(marks: dict[str, dict[str, str]], needs: dict[str, str]) -> list[str]:
    servers = sorted({server for row in marks.values() for server in row})
    lines = ["", "Kinds and their servers:"]
    lines += [f"  {number:2} {server}" for number, server in enumerate(servers, 1)]
    lines += ["", "+ passed · not for this server: the case needs what stands at the end of the line", ""]
    width = max(map(len, marks))
    lines.append(" " * width + "".join(f" {number:>4}" for number in range(1, len(servers) + 1)))
    for case in sorted(marks):
        cells = "".join(f" {marks[case].get(server, ''):>4}" for server in servers)
        lines.append(f"{case:<{width}}{cells}  {needs.get(case, '')}".rstrip())
    return lines
