"""``check`` and ``scrub``: is everything really where it is said to be, and as it was written."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import click

from cdir.checking import CatalogAudit, Finding, FindingKind, ProviderCheck
from cdir.cli.command import command
from cdir.cli.exits import Exit
from cdir.cli.output import count, human_size, table
from cdir.cli.session import Session
from cdir.scrubbing import ScrubProgress

__all__ = ["check", "scrub"]

_MOST_SHOWN = 1000
"""Findings that are printed; all are counted."""


@command("check", "cdir check", "cdir check /photos --provider nas --deep", "cdir check --output json")
@click.argument("path", default="/")
@click.option("--provider", default="", help="Only this one.")
@click.option("--deep", is_flag=True, help="Read every copy and compare digests.")
async def check(session: Session, path: str, provider: str, deep: bool) -> int:
    """Hold the catalog against the providers: list each completely and print what differs. Changes nothing.

    Without PATH everything is checked, older contents and the catalog itself included. Exit code 1 when anything is
    wrong. What is owed or being worked on is no finding.
    """
    target = session.path(path)
    findings: list[Finding] = []
    providers: list[ProviderCheck] = []
    audit: CatalogAudit | None = None
    total = 0
    async with session.client() as client:
        async for step in client.check(target, provider=provider, deep=deep):
            match step:
                case Finding():
                    total += step.kind is not FindingKind.CATALOG
                    if len(findings) < _MOST_SHOWN:
                        findings.append(step)
                case ProviderCheck():
                    providers.append(step)
                case CatalogAudit():
                    audit = step
                    total += step.findings
    providers.sort(key=lambda one: one.provider)
    findings.sort(key=lambda one: (one.provider, one.kind.value, one.key, one.path))
    row = {
        "clean": not total,
        "findings": [{**dataclasses.asdict(finding), "kind": finding.kind.value} for finding in findings],
        "found": total,
        "providers": [dataclasses.asdict(one) for one in providers],
        "catalog": None if audit is None else dataclasses.asdict(audit),
    }
    session.output.record(row, [*_finding_lines(findings, total), *_summary_lines(providers, audit, total, deep)])
    return Exit.FAILED if total else Exit.DONE


def _finding_lines(findings: Sequence[Finding], total: int) -> list[str]:
    lines = []
    for finding in findings:
        at = ":".join(part for part in (finding.provider or "catalog", finding.key) if part)
        of = finding.path and f" ({finding.path}, generation {finding.generation})" if finding.generation else ""
        what = finding.kind.value.replace("_", " ")
        lines.append(f"{what}: {at}{of or (f' ({finding.path})' if finding.path else '')}: {finding.message}")
    if total > len(findings):
        lines.append(f"and {total - len(findings)} more")
    return lines


def _summary_lines(providers: Sequence[ProviderCheck], audit: CatalogAudit | None, total: int, deep: bool) -> list[str]:
    lines = []
    if total:
        lines.append(
            f"{count(total, 'finding')}; `cdir scrub --wait` puts copies right, `cdir status` shows what is owed"
        )
    else:
        copies = sum(one.copies for one in providers)
        how = "read and right" if deep else "there as recorded"
        lines.append(f"clean: {count(copies, 'copy', 'copies')} on {count(len(providers), 'provider')}, all {how}")
    if audit is not None:
        lines.append(
            f"catalog: {count(audit.files, 'file')}, {count(audit.versions, 'version')},"
            f" {count(audit.copies, 'copy', 'copies')}, {count(audit.findings, 'contradiction')}"
        )
    rows = [
        (
            one.provider,
            str(one.objects),
            str(one.copies),
            str(one.findings),
            str(one.owed),
            str(one.changing),
            str(one.temporary),
            str(one.metadata),
            human_size(one.bytes_read),
        )
        for one in providers
    ]
    heads = ("PROVIDER", "OBJECTS", "GOOD", "FINDINGS", "OWED", "CHANGING", "TEMPORARY", "METADATA", "READ")
    return [*lines, "", *table(rows, heads, right=range(1, len(heads)))] if rows else lines


@command(
    "scrub", "cdir scrub", "cdir scrub /photos --provider nas --wait", "cdir scrub --sample 0.1 --bytes 1000000000"
)
@click.argument("path", default="/")
@click.option("--provider", default="", help="Only this one's copies.")
@click.option("--wait", is_flag=True, help="Return when it is done; exit code 3 when copies were found wrong.")
@click.option("--bytes", "most_bytes", type=click.IntRange(min=0), default=0, help="Begin no copy after so many bytes.")
@click.option("--calls", type=click.IntRange(min=0), default=0, help="Begin no copy after so many calls.")
@click.option(
    "--sample",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    metavar="SHARE",
    help="Read this share of the copies, those proven longest ago; 0.1 is a tenth.",
)
async def scrub(
    session: Session, path: str, provider: str, wait: bool, most_bytes: int, calls: int, sample: float
) -> int:
    """Prove the copies at or below PATH: by the providers' own checksums where they state them, else by reading.

    Providers are asked as well who may read the copies of files with an access control list. What is found wrong is
    owed and repaired by itself. Without --wait it goes on in the background.
    """
    target = session.path(path)
    progress: ScrubProgress | None = None
    async with session.client() as client:
        steps = client.scrub(target, provider=provider, bytes=most_bytes, calls=calls, sample=sample)
        async with contextlib.aclosing(steps) as seen:
            async for step in seen:
                progress = step
                if not wait:
                    break
    assert progress is not None  # a scrub that was taken tells at once how far it is
    row = dataclasses.asdict(progress)
    if not wait:
        session.output.record(row, ["the scrub has begun; `cdir status` shows how old the oldest proof is"])
        return Exit.DONE
    session.output.record(row, _scrub_lines(progress))
    wrong = progress.missing + progress.corrupt + progress.changed + progress.access_wider + progress.access_other
    if progress.unreachable or progress.failed or progress.access_failed:
        return Exit.FAILED
    return Exit.OWED if wrong else Exit.DONE


def _scrub_lines(progress: ScrubProgress) -> list[str]:
    read = f"{human_size(progress.bytes)} read"
    if progress.by_checksum:
        read = f"{progress.by_checksum} by the provider's checksum, {read}"
    lines = [f"{count(progress.proven, 'copy', 'copies')} proven ({read})"]
    wrong = [
        f"{number} {what}"
        for number, what in (
            (progress.missing, "missing"),
            (progress.corrupt, "damaged"),
            (progress.changed, "changed by others"),
            (progress.access_wider, "open to more than asked"),
            (progress.access_other, "with another access than asked"),
        )
        if number
    ]
    if wrong:
        lines.append(f"found wrong: {', '.join(wrong)}; what is owed now is being repaired, see `cdir status`")
    if progress.failed:
        unseen = f"{count(progress.failed, 'copy', 'copies')} could not be looked at"
        lines.append(f"{unseen}; what cannot be read is tried again, then repaired, see `cdir status`")
    if progress.access_right:
        lines.append(
            f"{count(progress.access_right, 'copy is', 'copies are')} open to those asked for, and to nobody else"
        )
    if progress.access_failed:
        lines.append(f"the access of {count(progress.access_failed, 'copy', 'copies')} could not be found out")
    lines += [f"{name} does not tell who may read its copies" for name in progress.access_untold]
    lines += [f"{name} could not be reached to the end: its copies stay unproven" for name in progress.unreachable]
    if progress.bounded:
        lines.append("the bounds given have left copies unproven")
    return lines
