"""``provider evacuate``, ``replace`` and ``drill``, and ``jobs``: doing without a storage service."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from cdir.cli.command import command, dry_run_option, yes_option
from cdir.cli.exits import Exit
from cdir.cli.output import count, human_size, human_time, rfc3339
from cdir.cli.session import Session
from cdir.evacuation import EvacuationPlan, Job, JobState, Verdict

if TYPE_CHECKING:
    from cdir.client import Client

__all__ = ["drill", "evacuate", "jobs", "replace"]

_HEADLINES: Final = {
    Verdict.LOST: "would be lost: there is no good copy anywhere else",
    Verdict.UNREADABLE: "could not be read: other copies are only at services that are paused or down",
    Verdict.SCARCE: "would have fewer copies than min_copies",
}

_purge_option = click.option("--purge", is_flag=True, help="Remove its copies, once others hold everything.")
_wait_option = click.option("--wait", is_flag=True, help="Wait until others hold everything.")


@command(
    "evacuate",
    "cdir provider evacuate old-disk --dry-run",
    "cdir provider evacuate old-disk --wait",
    "cdir provider evacuate old-disk --to new-disk --purge",
    "cdir provider evacuate old-disk --cancel",
)
@click.argument("name")
@click.option("--to", multiple=True, metavar="OTHER", help="Copies may go only there; may be given several times.")
@_purge_option
@_wait_option
@click.option("--cancel", is_flag=True, help="Take it back: the service is in use again.")
@yes_option
@dry_run_option
async def evacuate(
    session: Session,
    name: str,
    to: Sequence[str],
    purge: bool,
    wait: bool,
    cancel: bool,
    yes: bool,
    dry_run: bool,
) -> int:
    """Do without a storage service: others get what it holds, until that is proven.

    Nothing new is written to it. Its copies stay where they are, unless --purge is given. The work goes on in the
    background, over restarts too; `cdir jobs` shows how far it is. Then `cdir provider remove` takes it off the list.
    """
    if cancel:
        if to or purge or wait:
            raise click.UsageError("--cancel goes with nothing but --dry-run")
        return await _cancel(session, name, dry_run=dry_run)
    async with session.client() as client:
        plan = await client.providers.plan_evacuation(name, to=to, purge=purge)
        if not _agreed(session, name, plan, purge=purge, yes=yes, dry_run=dry_run):
            return Exit.FAILED if plan.unplaceable else Exit.DONE
        begun = await client.providers.evacuate(name, to=to, purge=purge)
        return await _report(session, client, begun.plan, begun.job, wait=wait)


async def _cancel(session: Session, name: str, *, dry_run: bool) -> int:
    if dry_run:
        session.output.say(f"would take {name} into use again")
        return Exit.DONE
    async with session.client() as client:
        await client.providers.cancel_evacuation(name)
    session.output.record({"name": name, "exit": None}, [f"{name} is in use again; it gets what it missed"])
    return Exit.DONE


@command(
    "replace",
    "cdir provider replace old-disk new-disk --dry-run",
    "cdir provider replace old-disk new-disk --wait",
)
@click.argument("old")
@click.argument("new")
@_purge_option
@_wait_option
@yes_option
@dry_run_option
async def replace(session: Session, old: str, new: str, purge: bool, wait: bool, yes: bool, dry_run: bool) -> int:
    """Put the storage service NEW, which is registered, in the place of OLD.

    Policies that name OLD name NEW; NEW gets the copies that OLD had, from any good one; OLD is evacuated.
    """
    async with session.client() as client:
        plan = await client.providers.plan_replacement(old, new, purge=purge)
        if not _agreed(session, old, plan, purge=purge, yes=yes, dry_run=dry_run, new=new):
            return Exit.FAILED if plan.unplaceable else Exit.DONE
        begun = await client.providers.replace(old, new, purge=purge)
        return await _report(session, client, begun.plan, begun.job, wait=wait)


def _agreed(
    session: Session, name: str, plan: EvacuationPlan, *, purge: bool, yes: bool, dry_run: bool, new: str = ""
) -> bool:
    """Show the plan, ask, and return whether to go on. A plan that cannot be carried out is left to fail, unless
    nothing was to be done anyway."""
    lines = _plan_lines(name, plan, purge=purge, new=new)
    if dry_run:
        session.output.record({"plan": _plan_row(plan), "job": None}, lines)
        return False
    for line in lines:
        session.output.say(line)
    if not plan.unplaceable and not yes and sys.stdin.isatty():
        click.confirm(f"Evacuate {name}?", abort=True, err=True)
    return True


def _plan_lines(name: str, plan: EvacuationPlan, *, purge: bool, new: str) -> list[str]:
    lines = [f"{name} holds {count(plan.files, 'file')} ({human_size(plan.bytes)})"]
    if plan.only_here:
        lines.append(f"  {count(plan.only_here, 'file')} have no good copy elsewhere yet")
    for gain in plan.gains:
        blocked = f", as soon as it is no longer {gain.blocked}" if gain.blocked else ""
        lines.append(f"  {gain.provider} gets {count(gain.files, 'file')} ({human_size(gain.bytes)}){blocked}")
    if not plan.gains and plan.files and not plan.unplaceable:
        lines.append("  others hold them all already")
    if plan.versions:
        lines.append(f"  {count(plan.versions, 'older version')} that only it holds get one copy elsewhere")
    if plan.calls:
        lines.append(f"  about {count(plan.calls, 'call')} to storage services")
    if plan.scarce:
        lines.append(f"  {count(plan.scarce, 'file')} will have fewer copies than their policy asks for")
    if plan.policies and new:
        lines.append(f"  {count(plan.policies, 'policy names', 'policies name')} it, and will name {new}")
    elif plan.policies:
        lines.append(f"  {count(plan.policies, 'policy names', 'policies name')} it: see `cdir policy show`")
    lines.append("  its own copies are removed afterwards" if purge else "  its own copies stay there")
    if plan.unplaceable:
        lines.append(f"cannot be done: {count(plan.unplaceable, 'file')} may be nowhere else")
        lines += [f"  {file.path}: {file.reason}" for file in plan.unplaceable_files]
        more = plan.unplaceable - len(plan.unplaceable_files)
        if more:
            lines.append(f"  and {count(more, 'more file', 'more files')}")
    return lines


def _plan_row(plan: EvacuationPlan) -> dict[str, object]:
    return {
        "files": plan.files,
        "bytes": plan.bytes,
        "only_here": plan.only_here,
        "versions": plan.versions,
        "gains": [
            {"provider": gain.provider, "files": gain.files, "bytes": gain.bytes, "blocked": gain.blocked or None}
            for gain in plan.gains
        ],
        "calls": plan.calls,
        "scarce": plan.scarce,
        "policies": plan.policies,
        "unplaceable": plan.unplaceable,
        "unplaceable_files": [{"path": file.path, "reason": file.reason} for file in plan.unplaceable_files],
    }


async def _report(session: Session, client: Client, plan: EvacuationPlan, begun: Job, *, wait: bool) -> int:
    """Print the job as begun, or as it ended."""
    job, last = begun, ""
    if wait:
        async for now in client.providers.follow(begun.job_id):
            job, text = now, _progress(now)
            if text != last and job.state is JobState.RUNNING:
                session.output.say(text)
                last = text
    session.output.record({"plan": _plan_row(plan), "job": _job_row(job)}, _job_lines(job))
    return Exit.FAILED if job.state is JobState.CANCELLED else Exit.DONE


def _progress(job: Job) -> str:
    if not job.measured:
        return f"{job.subject}: begun"
    if job.proof is not None:
        return f"{job.subject}: {job.message or 'its copies are being removed'}"
    text = f"{job.subject}: {job.files - job.files_left} of {count(job.files, 'file')} are safe elsewhere"
    if job.versions_left:
        text += f", {count(job.versions_left, 'older version')} left"
    if job.eta_seconds is not None:
        text += f", about {_duration(job.eta_seconds)} left"
    return text + (f"; {job.message}" if job.message else "")


def _job_lines(job: Job) -> list[str]:
    if job.state is JobState.RUNNING:
        return [f"{job.subject} is being evacuated; `cdir jobs` shows how far it is"]
    if job.state is JobState.CANCELLED or job.proof is None:
        return [f"{job.subject}: {job.message}"]
    lines = [f"{job.subject} is evacuated: {job.message}"]
    lines += [f"  {count(files, 'file')} on {count(copies, 'other service')}" for copies, files in job.proof.held]
    if job.proof.versions:
        lines.append(f"  {count(job.proof.versions, 'older version')} on at least one")
    return [*lines, f"`cdir provider remove {job.subject}` takes it off the list"]


def _job_row(job: Job) -> dict[str, object]:
    proof = job.proof
    return {
        "id": job.job_id,
        "kind": job.kind,
        "subject": job.subject,
        "state": job.state.value,
        "files": job.files,
        "files_left": job.files_left,
        "bytes": job.bytes,
        "bytes_left": job.bytes_left,
        "versions_left": job.versions_left,
        "since": rfc3339(job.started),
        "ended": rfc3339(job.ended),
        "eta": None if job.eta_seconds is None else round(job.eta_seconds),
        "message": job.message,
        "author": job.author,
        "proof": None
        if proof is None
        else {
            "files": proof.files,
            "bytes": proof.bytes,
            "versions": proof.versions,
            "held": [{"copies": copies, "files": files} for copies, files in proof.held],
        },
    }


def _duration(seconds: float) -> str:
    """Return a time to go for people: ``40 s``, ``12 min``, ``3 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@command("jobs", "cdir jobs", "cdir jobs --running --output json")
@click.option("--running", is_flag=True, help="Only those that run.")
async def jobs(session: Session, running: bool) -> None:
    """List the work that goes on for long, such as evacuations, and how far it is."""
    async with session.client() as client:
        found = await client.providers.jobs(running=running)
    by_id = {job.job_id: job for job in found}

    def left(row: Mapping[str, object]) -> str:
        job = by_id[str(row["id"])]
        return f"{job.files_left} of {job.files}" if job.measured else "-"

    def note(row: Mapping[str, object]) -> str:
        job = by_id[str(row["id"])]
        return job.message or ("" if job.eta_seconds is None else f"about {_duration(job.eta_seconds)} left")

    session.output.rows(
        [_job_row(job) for job in found],
        [
            ("JOB", lambda row: f"{row['kind']} {row['subject']}"),
            ("STATE", lambda row: str(row["state"])),
            ("FILES LEFT", left),
            ("BYTES LEFT", lambda row: human_size(by_id[str(row["id"])].bytes_left)),
            ("SINCE", lambda row: human_time(by_id[str(row["id"])].started)),
            ("", note),
        ],
        right=(2, 3),
        empty="no job runs or ran",
    )


@command(
    "drill",
    "cdir provider drill --without cloud",
    "cdir provider drill --without cloud --without disk --output json",
)
@click.option("--without", multiple=True, required=True, metavar="NAME", help="Gone; may be given several times.")
async def drill(session: Session, without: Sequence[str]) -> int:
    """Say what would become of files if storage services vanished now. Nothing is changed.

    Exit code 1 when files would be lost, or could not be read.
    """
    counts = dict.fromkeys(Verdict, 0)
    seen = lost_bytes = unreadable_bytes = 0
    async with session.client() as client:

        async def files() -> AsyncIterator[dict[str, object]]:
            nonlocal seen, lost_bytes, unreadable_bytes
            async for page in client.providers.drill(*without):
                seen += page.seen
                lost_bytes += page.lost_bytes
                unreadable_bytes += page.unreadable_bytes
                for file in page.files:
                    counts[file.verdict] += 1
                    yield {
                        "path": file.path,
                        "size": file.size,
                        "verdict": file.verdict.value,
                        "copies": file.copies,
                        "min_copies": file.min_copies,
                    }

        await session.output.stream(files(), lambda row: f"{row['verdict']:<10}  {row['path']}")
    names = " and ".join(without)
    sizes = {Verdict.LOST: lost_bytes, Verdict.UNREADABLE: unreadable_bytes}
    for verdict, number in counts.items():
        if number:
            size = f" ({human_size(sizes[verdict])})" if verdict in sizes else ""
            session.output.say(f"without {names}: {count(number, 'file')}{size} {_HEADLINES[verdict]}")
    if not any(counts.values()):
        session.output.say(f"without {names}: {count(seen, 'file')} looked at, each stays readable from enough copies")
    return Exit.FAILED if counts[Verdict.LOST] or counts[Verdict.UNREADABLE] else Exit.DONE
