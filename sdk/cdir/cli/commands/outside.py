"""``scan`` and ``add``: what other programs did at the storage services, and what lies there already."""

from __future__ import annotations

import click

from cdir.cli.command import command, dry_run_option
from cdir.cli.exits import Exit
from cdir.cli.output import count
from cdir.cli.session import Session

__all__ = ["add", "scan"]

_WORDS = {
    "adopted": "new",
    "changed": "edited",
    "put_back": "replaced with something older",
    "missing": "missing",
    "suspected": "to be read first",
    "postponed": "busy",
    "ignored": "ignored",
}
"""What a scan's counts are called in a line for people."""


@command("scan", "cdir scan --wait", "cdir scan /photos --provider nas --wait")
@click.argument("path", default="/")
@click.option("--provider", default="", help="Look at this one only.")
@click.option("--wait", is_flag=True, help="Return when it is done; exit code 1 when a service does not answer.")
@dry_run_option
async def scan(session: Session, path: str, provider: str, wait: bool, dry_run: bool) -> int:
    """Look now at what other programs did at or below PATH at the storage services.

    It is looked at regularly anyway, often where something changed lately. A file they made becomes a file of the
    directory; the newer of two edits becomes current, and the other is kept as a version; what they removed is copied
    there again or removed everywhere, as the policy says.
    """
    target = session.path(path)
    if dry_run:
        session.output.say(f"would look at {target} at {provider or 'every storage service'}")
        return Exit.DONE
    async with session.client() as client:
        reports = await client.scan(target, provider=provider, wait=wait)
    unfinished = [report for report in reports if wait and not report.done]
    for report in unfinished:
        why = report.error or "it does not answer, or is left alone; see `cdir provider list`"
        session.output.complain(f"cdir: {report.provider} could not be looked at: {why}")
    rows: list[dict[str, object]] = [
        {
            "provider": report.provider,
            "done": report.done,
            "same": report.same,
            **{name: getattr(report, name) for name in _WORDS},
            "error": report.error,
        }
        for report in reports
    ]
    if not session.output.for_people:
        session.output.rows(rows, [])
    elif not wait:
        session.output.say(f"{count(len(reports), 'storage service')} will be looked at")
    else:
        for row in rows:
            if row["done"]:
                found = [f"{row[name]} {word}" for name, word in _WORDS.items() if row[name]]
                session.output.line(
                    f"{row['provider']}: {row['same']} as recorded{''.join(f', {one}' for one in found)}"
                )
    return Exit.FAILED if unfinished else Exit.DONE


@command("add", "cdir add nas:report.pdf /work/report.pdf", "cdir add nas:old/photos /photos --recursive")
@click.argument("source", metavar="PROVIDER:PATH")
@click.argument("target", metavar="DEST")
@click.option("--recursive", "-r", is_flag=True, help="Everything below a folder; DEST gets what lies in it.")
@dry_run_option
async def add(session: Session, source: str, target: str, recursive: bool, dry_run: bool) -> int:
    """Adopt what already lies at a storage service as a file, or a tree, of the directory.

    No byte moves first: the copies at the other services are made in the background, and an object whose name there
    differs from DEST is renamed there.
    """
    provider, colon, key = source.partition(":")
    if not colon or not provider or "/" in provider:
        raise click.UsageError(f"{source!r} names nothing at a storage service; write PROVIDER:PATH")
    destination = session.path(target)
    if not recursive and target.endswith("/"):
        destination = f"{destination.rstrip('/')}/{key.rstrip('/').rpartition('/')[2]}"
    if dry_run:
        session.output.say(f"would make {source} known as {destination}")
        return Exit.DONE
    added = existed = 0
    failed: list[dict[str, object]] = []
    async with session.client() as client:
        async for outcome in client.adopt(provider, key, destination, recursive=recursive):
            if outcome.error is not None:
                failed.append({"path": outcome.path or outcome.key, "error": outcome.error.message})
                session.output.complain(f"cdir: {outcome.key}: {outcome.error.message}")
            elif outcome.existed:
                existed += 1
            else:
                added += 1
    known = f", {existed} known already" if existed else ""
    lost = f", {len(failed)} failed" if failed else ""
    session.output.record(
        {"added": added, "existed": existed, "failed": failed}, [f"{count(added, 'file')} added{known}{lost}"]
    )
    return Exit.FAILED if failed else Exit.DONE
