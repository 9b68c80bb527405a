"""TLS of control and data connections: what is trusted, and sessions that go on from one connection to the next."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any, Self

from cdir.errors import ConfigInvalid
from cdir_adapters.providers.ftp.settings import FtpSettings

__all__ = ["Certificate", "ResumingContext", "certificate_of", "make_context", "unverified_context"]


class Certificate(str):
    """SHA-256 of a certificate in lower-case hex."""

    __slots__ = ()

    @property
    def shown(self) -> str:
        """As ``openssl`` and other clients show it."""
        return ":".join(self[at : at + 2].upper() for at in range(0, len(self), 2))


class ResumingContext(ssl.SSLContext):
    """Makes connections by another context, as the continuation of one session.

    Many servers take a data connection only when it resumes the session of its control connection: else somebody who
    guessed the port could have come first. asyncio has no way to hand a session over, but it asks its context for the
    connection, so this context passes the session in.
    """

    _context: ssl.SSLContext
    _session: ssl.SSLSession | None

    def __new__(cls, context: ssl.SSLContext, session: ssl.SSLSession | None) -> Self:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made._context = context
        made._session = session
        return made

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        """All is set when it is made."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self._context.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname, session=self._session
        )


def make_context(settings: FtpSettings) -> ssl.SSLContext:
    """Return the context for all connections of a provider. Reads files, so it blocks. Raises ConfigInvalid."""
    if not settings.verify_tls or settings.fingerprint is not None:
        return unverified_context()
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigInvalid(
            f"ftp: the certificates in {settings.ca_file} cannot be read ({error.strerror or error}); check ca_file",
            option="ca_file",
        ) from None


def unverified_context() -> ssl.SSLContext:
    """A context that takes any certificate; whoever uses it looks at the fingerprint, or was told not to."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def certificate_of(tls: Any) -> Certificate:
    """Return which certificate the other side of an ``ssl.SSLObject`` has shown."""
    return Certificate(hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest())
