"""``vault …``: the keys that the secrets of storage services are sealed under."""

from __future__ import annotations

from typing import Final

import click

from cdir.cli.app import Lazy, LazyGroup
from cdir.cli.command import command, dry_run_option, yes_option
from cdir.cli.exits import Exit
from cdir.cli.output import count, rfc3339, table
from cdir.cli.provider_options import ask_secret, forget_variables, read_secret
from cdir.cli.session import Session
from cdir.vault import VaultKey, VaultProtection

__all__ = ["forget", "passphrase_option", "protect", "rotate", "status", "unlock", "vault"]

vault = LazyGroup(
    "vault",
    lazy={
        "status": Lazy("vault", "status", "Show how the key is kept, and what is sealed under which key."),
        "unlock": Lazy("vault", "unlock", "Say the passphrase after a start."),
        "rotate": Lazy("vault", "rotate", "Seal every secret under a new key."),
        "forget": Lazy("vault", "forget", "Remove the keys that seal nothing any more."),
        "protect": Lazy("vault", "protect", "Keep the key in a file, a keyring, or behind a passphrase."),
    },
    help="Look after the keys that the secrets of storage services are sealed under.",
)

_SOURCE: Final = "env:VAR|@FILE|-"

passphrase_option = click.option(
    "--passphrase",
    "source",
    metavar=_SOURCE,
    help="Where the passphrase is read: a variable, a file such as @/dev/fd/3, or standard input. Asked for otherwise.",
)


@command("status", "cdir vault status", "cdir vault status --output json")
async def status(session: Session) -> None:
    """Show how the key is kept, whether the vault is locked, and what is sealed under which key."""
    async with session.client() as client:
        found = await client.vault.status()
    row = {
        "protection": found.protection.value,
        "locked": found.locked or None,
        "keys": [
            {
                "id": key.id,
                "made": rfc3339(key.made) if key.made else None,
                "held": key.held,
                "providers": list(key.providers),
            }
            for key in found.keys
        ],
    }
    pairs = [
        ("key kept", _WAYS[found.protection]),
        ("state", found.locked or "unlocked"),
        *((f"key {key.id or 'unknown'}", _use(key, first=key is found.keys[0])) for key in found.keys),
    ]
    session.output.record(row, list(table(pairs)))


_WAYS: Final = {
    VaultProtection.FILE: "in a file",
    VaultProtection.PASSPHRASE: "behind a passphrase",
    VaultProtection.KEYRING: "in the keyring",
}


def _use(key: VaultKey, *, first: bool) -> str:
    seals = ", ".join(key.providers) or "nothing"
    if not key.held:
        return f"seals {seals}; not at hand"
    when = f", made {rfc3339(key.made)}" if key.made else ""
    return f"seals {seals}{'; current' if first else '; kept for older snapshots'}{when}"


@command("unlock", "cdir vault unlock", "cdir vault unlock --passphrase @/run/keys/cdir")
@passphrase_option
async def unlock(session: Session, source: str | None) -> None:
    """Open a locked vault. Until then whatever needs a storage service with secrets waits."""
    given = None if source is None else read_secret("--passphrase", source)
    forget_variables([source or ""])
    async with session.client() as client:
        if given is None and (await client.vault.status()).protection is VaultProtection.PASSPHRASE:
            given = ask_secret("passphrase", f"--passphrase {_SOURCE}")
        await client.vault.unlock(given)
    session.output.record({"locked": False}, ["the vault is unlocked"])


@command("rotate", "cdir vault rotate")
@dry_run_option
async def rotate(session: Session, dry_run: bool) -> int:
    """Seal every secret under a new key. If it was interrupted, run it again; nothing is ever unreadable."""
    if dry_run:
        session.output.say("would make a new key and seal every secret under it")
        return Exit.DONE
    async with session.client() as client:
        done = await client.vault.rotate()
    session.output.record(
        {"key": done.key_id, "resealed": done.resealed, "lost": list(done.lost)},
        [f"the secrets of {count(done.resealed, 'storage service')} are sealed under the new key {done.key_id}"],
    )
    for name in done.lost:
        session.output.complain(
            f"cdir: the secrets of {name} cannot be opened any more; set them anew with"
            f" `cdir provider set {name} --secret OPTION`"
        )
    return Exit.FAILED if done.lost else Exit.DONE


@command("forget", "cdir vault forget --dry-run", "cdir vault forget --yes")
@yes_option
@dry_run_option
async def forget(session: Session, yes: bool, dry_run: bool) -> None:
    """Remove the keys that no service's secrets are sealed under any more, so that a stolen old copy opens nothing.

    Secrets in older snapshots and backups of the catalog, sealed under these keys, can then not be opened: after
    restoring one, set them anew. The current key stays, and so does one that was in use within the last hour.
    """
    async with session.client() as client:
        found = await client.vault.forget(dry_run=True)
        if found.keys and not dry_run:
            if not yes:
                click.confirm(f"Forget {count(len(found.keys), 'key')}, also for older backups?", abort=True, err=True)
            found = await client.vault.forget()
    done = "would be forgotten" if dry_run else "forgotten"
    lines = [f"{count(len(found.keys), 'key')} {done}{''.join(f' {key}' for key in found.keys)}"]
    if found.recent:
        lines.append(f"{count(len(found.recent), 'key')} can be forgotten an hour after the rotation that replaced it")
    session.output.record({"forgotten": list(found.keys), "recent": list(found.recent)}, lines)


@command(
    "protect",
    "cdir vault protect --with passphrase",
    "cdir vault protect --with passphrase --passphrase env:CDIR_NEW_PASSPHRASE",
    "cdir vault protect --with keyring",
)
@click.option(
    "--with",
    "way",
    required=True,
    type=click.Choice([way.value for way in VaultProtection]),
    help="How the key is kept from now on.",
)
@passphrase_option
@dry_run_option
async def protect(session: Session, way: str, source: str | None, dry_run: bool) -> None:
    """Change how the key is kept: in a file, in this user's keyring, or behind a passphrase, also another one.

    Nothing is sealed anew. What was kept before opens an older copy of the vault; `cdir vault rotate` makes that of no
    use for what is sealed from then on.
    """
    protection = VaultProtection(way)
    if source is not None and protection is not VaultProtection.PASSPHRASE:
        raise click.UsageError(f"--passphrase has no meaning with --with {way}")
    if dry_run:
        session.output.say(f"would keep the key {_WAYS[protection]}")
        return
    passphrase = None
    if protection is VaultProtection.PASSPHRASE:
        passphrase = (
            ask_secret("new passphrase", f"--passphrase {_SOURCE}", confirm=True)
            if source is None
            else read_secret("--passphrase", source)
        )
    forget_variables([source or ""])
    async with session.client() as client:
        await client.vault.protect(protection, passphrase)
    lines = [f"the key is kept {_WAYS[protection]}; after `cdir vault rotate` its old copies open nothing new"]
    if protection is VaultProtection.PASSPHRASE:
        lines.append("after each start `cdir up` asks for the passphrase, or reads CDIR_PASSPHRASE_FILE")
    session.output.record({"protection": way}, lines)
