"""Connections to one FTP server, signed in: a few, made when needed, kept, and made anew after they were lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cdir.errors import CdirError, ConfigInvalid, InvalidPath, ProviderUnavailable, Unauthenticated
from cdir_adapters.providers.ftp.faults import Refusal, translated
from cdir_adapters.providers.ftp.security import certificate_of, make_context, unverified_context
from cdir_adapters.providers.ftp.settings import FtpSettings, TlsMode
from cdir_adapters.providers.ftp.wire import Control, Reply

__all__ = ["Features", "Session", "Sessions", "Use"]

_LOGIN_DEADLINE = 30.0
_PROVEN_FOR = 10.0
"""Seconds of idleness after which a connection is asked whether it still works before it is used."""
_FACTS = ("type", "size", "modify", "unique")
_BUSY = re.compile(r"too many|maximum|limit|connections|try (?:again )?later", re.I)
_HOME = re.compile(r'"((?:[^"]|"")*)"')
_UNSENDABLE = re.compile(r"[\r\n\0]")


@dataclasses.dataclass(slots=True)
class Features:
    """What a server offers beyond the plain protocol, and what is learnt about it on the way."""

    facts: bool = False
    """MLSD and MLST: listings made for programs."""
    mfmt: bool = False
    mdtm: bool = False
    utf8: bool = False
    sets_time_by_mdtm: bool | None = None
    """MDTM takes a time to set as well; ``None`` until that was tried."""
    list_flags: str | None = None
    """What LIST is to be told so that names with a leading dot are shown; ``None`` until that was tried."""
    lists_itself: bool = False
    """LIST shows ``.``, so an empty answer is a failed one."""
    opens_late: bool = False
    """A file that is to be written is only opened once its content is coming: its folder must be there before."""
    restarts: bool = True
    """REST works; else the bytes before an offset are read and dropped."""


class Session:
    """One control connection that is signed in, with the root that keys are below."""

    def __init__(self, control: Control, root: str, features: Features) -> None:
        self.control = control
        self.root = root
        """Absolute path of the provider's root, without a slash at the end: the empty text when it is ``/``."""
        self.features = features
        self.idle_since = 0.0

    def path(self, key: str) -> str:
        """The path of a key on the server. Raises InvalidPath for what no command can carry."""
        if _UNSENDABLE.search(key):
            raise InvalidPath(f"{key!r} holds a line break or NUL, which FTP cannot carry in a name", key=key)
        return f"{self.root}/{key}" if key else self.root or "/"

    async def enters(self, key: str) -> bool:
        """Tell whether there is a folder at ``key`` that the server lets its user into."""
        try:
            await self.control.command("CWD", self.path(key))
        except Refusal as refusal:
            if refusal.code < 500 or refusal.unknown_command:
                raise
            return False
        return True


class Use(enum.Enum):
    """What a session is wanted for."""

    ASKING = enum.auto()
    """A call that ends by itself: looking, listing, changing, a small object."""
    READING = enum.auto()
    """A stream that its reader holds open."""
    WRITING = enum.auto()
    """A stream that takes as long as its source does."""


class Sessions:
    """The pool of one provider.

    A connection serves one call at a time. Streams that read and streams that write have a third of them each at most:
    so whoever reads from one object to write to another one never waits for himself, and calls that end by themselves
    never wait for large objects to be through. Those have all that no stream has.
    """

    def __init__(self, settings: FtpSettings, provider: str) -> None:
        self.features: Features | None = None
        """Known once a connection was made."""
        self._settings = settings
        self._provider = provider
        self._idle: list[Session] = []
        self.streams = max(settings.connections // 3, 1)
        """Most sessions at once for streams that are read, and as many for those that are written."""
        self._places = asyncio.Semaphore(settings.connections)
        self._of_use = {
            Use.READING: asyncio.Semaphore(self.streams),
            Use.WRITING: asyncio.Semaphore(self.streams),
            Use.ASKING: asyncio.Semaphore(settings.connections),
        }
        self._making_context = asyncio.Lock()
        self._context: ssl.SSLContext | None = None
        self._root: str | None = None
        self._closings = 0

    @asynccontextmanager
    async def session(self, key: str, use: Use = Use.ASKING) -> AsyncIterator[Session]:
        """Lend a session. What its use raises becomes an error of cdir; ``key`` is for its message."""
        with translated(self._provider, key):
            async with self._of_use[use], self._places:
                closings = self._closings
                session = await self._take()
                try:
                    yield session
                finally:
                    if session.control.usable and closings == self._closings:
                        session.idle_since = asyncio.get_running_loop().time()
                        self._idle.append(session)
                    else:
                        session.control.discard()

    async def aclose(self) -> None:
        """Close all connections, those in use once they are given back. Idempotent."""
        self._closings += 1
        idle, self._idle = self._idle, []
        await asyncio.gather(*(session.control.aclose() for session in idle))

    async def _take(self) -> Session:
        """The connection used last, since the server is the least likely to have closed that one; else a new one."""
        while self._idle:
            session = self._idle.pop()
            try:
                if await self._still_works(session):
                    return session
            except BaseException:
                session.control.discard()
                raise
            session.control.discard()
        return await self._connect()

    async def _still_works(self, session: Session) -> bool:
        if not await session.control.is_quiet():
            return False
        if asyncio.get_running_loop().time() - session.idle_since < _PROVEN_FOR:
            return True
        try:
            async with asyncio.timeout(_LOGIN_DEADLINE):
                await session.control.command("NOOP", accept="25")
        except (OSError, Refusal):
            return False
        return True

    # ------------------------------------------------------------------ connecting

    async def _connect(self) -> Session:
        settings = self._settings
        context = await self._tls_context()
        try:
            control = await self._reach(context)
        except ssl.SSLCertVerificationError as error:
            raise await self._untrusted(error) from None
        except ssl.SSLError as error:
            raise ProviderUnavailable(
                f"provider {self._provider}: {self._where} does not speak TLS as it should"
                f" ({error.reason or 'handshake failed'}); check port, and whether tls={settings.tls} is right",
                provider=self._provider,
            ) from error
        try:
            async with asyncio.timeout(_LOGIN_DEADLINE):
                self._check_fingerprint(control)
                await self._sign_in(control)
                return await self._furnish(control, protected=context is not None)
        except BaseException:
            control.discard()
            raise

    @property
    def _where(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    async def _tls_context(self) -> ssl.SSLContext | None:
        if self._settings.tls is TlsMode.OFF:
            return None
        async with self._making_context:
            if self._context is None:
                self._context = await asyncio.to_thread(make_context, self._settings)
        return self._context

    async def _reach(self, context: ssl.SSLContext | None) -> Control:
        """Connect and, where that is wanted, have TLS begun. Nothing secret is sent."""
        settings = self._settings
        implicit = context if settings.tls is TlsMode.IMPLICIT else None
        control = await Control.connect(settings.host, settings.port, implicit)
        try:
            async with asyncio.timeout(_LOGIN_DEADLINE):
                try:
                    await control.greeting()
                    if settings.tls is TlsMode.EXPLICIT:
                        assert context is not None
                        await self._ask_for_tls(control)
                        await control.start_tls(context)
                except Refusal as refusal:
                    raise self._busy(refusal) from refusal
        except BaseException:
            control.discard()
            raise
        return control

    async def _ask_for_tls(self, control: Control) -> None:
        try:
            await control.command("AUTH", "TLS")
        except Refusal as refusal:
            raise ConfigInvalid(
                f"provider {self._provider}: {self._where} offers no TLS ({refusal}), and without it anybody on the way"
                " reads the password and the files; where that does no harm, set tls=off",
                provider=self._provider,
                option="tls",
            ) from refusal

    def _busy(self, refusal: Refusal) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"provider {self._provider}: {self._where} takes no connection now ({refusal}); if it allows only a few at"
            f" once, set connections to fewer than {self._settings.connections}",
            provider=self._provider,
        )

    async def _untrusted(self, error: ssl.SSLCertVerificationError) -> CdirError:
        """Say why a certificate is not trusted, and which one it is, so that a person can decide."""
        reason = error.verify_message or error.reason
        shown = ""
        with contextlib.suppress(OSError, CdirError):
            control = await self._reach(unverified_context())
            certificate = certificate_of(control.tls)
            control.discard()
            shown = (
                f". Its SHA-256 is {certificate.shown}; compare that with what the server's owner says, then trust it"
                f" with --set fingerprint={certificate.shown}"
            )
        return Unauthenticated(
            f"provider {self._provider}: the certificate of {self._where} is not trusted ({reason}){shown}",
            provider=self._provider,
            option="fingerprint",
        )

    def _check_fingerprint(self, control: Control) -> None:
        wanted = self._settings.fingerprint
        if wanted is None or (certificate := certificate_of(control.tls)) == wanted:
            return
        raise Unauthenticated(
            f"provider {self._provider}: {self._where} shows the certificate {certificate.shown}, not the one that"
            " fingerprint names: another machine may be posing as it. Only if its owner confirms the change, set"
            " fingerprint anew",
            provider=self._provider,
            option="fingerprint",
        )

    async def _sign_in(self, control: Control) -> None:
        settings = self._settings
        try:
            reply = await control.command("USER", settings.user, accept="23")
            if reply.code == 331:
                reply = await control.command("PASS", settings.password, accept="23")
            if reply.code == 332:
                raise ConfigInvalid(
                    f"provider {self._provider}: {self._where} wants the name of an account besides the user's, which"
                    " is not supported",
                    provider=self._provider,
                )
        except Refusal as refusal:
            if refusal.code < 500 or (refusal.verb == "USER" and _BUSY.search(refusal.text)):
                raise self._busy(refusal) from refusal
            # its text is left out: some servers repeat what they were sent
            raise Unauthenticated(
                f"provider {self._provider}: {self._where} does not let {settings.user} in (code {refusal.code}); check"
                " user and password, and tls: some servers refuse those who come without it",
                provider=self._provider,
            ) from None

    async def _furnish(self, control: Control, *, protected: bool) -> Session:
        """Ask what the server offers, and set the connection up."""
        found = await self._ask_features(control)
        if self.features is None:
            self.features = found
        try:
            if protected:
                await control.protect_data()
            await control.command("TYPE", "I")
        except Refusal as refusal:
            raise ConfigInvalid(
                f"provider {self._provider}: {self._where} cannot send files as they are, or not under TLS ({refusal})",
                provider=self._provider,
            ) from refusal
        root = self._settings.root
        if not root.startswith("/"):
            home = _home_of(await control.command("PWD"))
            root = f"{home.rstrip('/')}/{root}" if root else home
        root = root.rstrip("/")
        if self._root is None:
            self._root = root
        elif self._root != root:
            raise ProviderUnavailable(
                f"provider {self._provider}: the server put its user into another folder than before ({root or '/'});"
                " set root to an absolute path",
                provider=self._provider,
            )
        return Session(control, root, self.features)

    async def _ask_features(self, control: Control) -> Features:
        try:
            lines = (await control.command("FEAT")).lines[1:]
        except Refusal as refusal:
            if refusal.code < 500:
                raise
            lines = ()
        offered = {words[0].upper(): words[1:] for line in lines if (words := line.split(None, 1))}
        features = Features(
            facts="MLST" in offered or "MLSD" in offered,
            mfmt="MFMT" in offered,
            mdtm="MDTM" in offered,
            utf8="UTF8" in offered,
        )
        if "SIZE" not in offered and not features.facts:
            raise ConfigInvalid(
                f"provider {self._provider}: {self._where} cannot tell the size of a file (it has neither SIZE nor"
                " MLST), so nothing written there could be checked; it is too old to be used",
                provider=self._provider,
            )
        if features.utf8:
            with contextlib.suppress(Refusal):
                await control.command("OPTS", "UTF8 ON")
        if features.facts:
            await self._choose_facts(control, "".join(offered.get("MLST", [])))
        return features

    async def _choose_facts(self, control: Control, offered: str) -> None:
        """Have listings tell what is needed and nothing more: ``type*;size*;perm;`` names the facts, and by a star
        those that are on."""
        facts = {fact.rstrip("*").lower(): fact.endswith("*") for fact in offered.strip().split(";") if fact}
        wanted = [fact for fact in _FACTS if fact in facts]
        if any(not facts[fact] for fact in wanted):
            with contextlib.suppress(Refusal):
                await control.command("OPTS", f"MLST {''.join(f'{fact};' for fact in wanted)}")


def _home_of(reply: Reply) -> str:
    match = _HOME.search(reply.lines[0])
    return match[1].replace('""', '"') if match and match[1].startswith("/") else "/"
