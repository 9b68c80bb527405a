"""How cdir's processes reach one another: addresses, the options both ends share, and the client's end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio

from cdir.errors import ConfigInvalid

__all__ = ["MAX_MESSAGE_BYTES", "TRANSPORT_OPTIONS", "ending", "open_channel", "socket_path"]

_Call = TypeVar("_Call", bound=grpc.aio.RpcContext)

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The largest message either end sends or takes: a block of 4 MiB, or a large batch, with room to spare."""

_STREAM_WINDOW_BYTES: Final = 2 * 1024 * 1024
_MAX_SOCKET_PATH_BYTES: Final = 100
"""The kernel takes 107 bytes (103 on macOS); less some room for what gRPC adds."""

TRANSPORT_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC would measure the link and widen each stream's window up to many MiB; what a slow reader leaves in its window
    # is memory, times the number of streams. A fixed window holds 4 ms at 4 Gbit/s: plenty between our processes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _STREAM_WINDOW_BYTES),
    # Fewer, larger frames: a block of 4 MiB would otherwise be cut into 256.
    ("grpc.http2.max_frame_size", 1024 * 1024),
    # Notice a peer that is gone without a word (a lost node, a cut cable) within about half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Options of channels and servers alike."""

_CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *TRANSPORT_OPTIONS,
    # Each channel has connections of its own; closing one never disturbs another.
    ("grpc.use_local_subchannel_pool", 1),
    # A service that was restarted is found again within about a second; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1500),
    # cdir's services reach one another directly, whatever proxy the environment names for the web.
    ("grpc.enable_http_proxy", 0),
)


def open_channel(address: str, token: str | None = None) -> grpc.aio.Channel:
    """Return a channel to ``address`` (``unix:/path`` or ``host:port``); it connects at the first call.

    ``token`` is sent with each call as ``authorization: Bearer``. Close the channel (``async with``, or
    ``await close()``) before its event loop ends. Raises :class:`ConfigInvalid` for an address that can never work.
    """
    if address.startswith("unix:"):
        socket_path(address)
    elif not address.rpartition(":")[2].isdigit():
        raise ConfigInvalid(f"{address!r} is no address: use host:port or unix:/path", option="address")
    channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
    return channel if token is None else _TokenChannel(channel, token)


@contextmanager
def ending(call: _Call) -> Iterator[_Call]:
    """Cancel ``call`` at the end of the block, unless it has ended by itself.

    A stream that is left early (``break``, an error, a cancelled task) is not cancelled by being dropped: grpc.aio's
    channel holds on to it, and its handler would wait for a reader until the channel is closed.
    """
    try:
        yield call
    finally:
        call.cancel()


def socket_path(address: str) -> str | None:
    """Return the path of a ``unix:`` address, None for other addresses.

    Raises :class:`ConfigInvalid` when the path is longer than the kernel takes.
    """
    if not address.startswith("unix:"):
        return None
    path = address.removeprefix("unix:")
    if path.startswith("//"):
        path = path[2:]
    if not path:
        raise ConfigInvalid("the address unix: names no path", option="address")
    size = len(path.encode("utf-8", "surrogateescape"))
    if size > _MAX_SOCKET_PATH_BYTES:
        raise ConfigInvalid(
            f"the socket path {path} is {size} bytes long and may be {_MAX_SOCKET_PATH_BYTES}: choose a shorter folder",
            option="address",
        )
    return path


class _TokenChannel(grpc.aio.Channel):
    """Adds the token to each call.

    gRPC's own way to do that, an interceptor, wraps every call in another object and task; and its call credentials
    work over TLS only.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._authorization = ("authorization", f"Bearer {token}")

    def __repr__(self) -> str:
        return "_TokenChannel()"

    def unary_unary(self, method: str, *codecs: Any, **options: Any) -> Any:
        return self._with_token(self._channel.unary_unary(method, *codecs, **options))

    def unary_stream(self, method: str, *codecs: Any, **options: Any) -> Any:
        return self._with_token(self._channel.unary_stream(method, *codecs, **options))

    def stream_unary(self, method: str, *codecs: Any, **options: Any) -> Any:
        return self._with_token(self._channel.stream_unary(method, *codecs, **options))

    def stream_stream(self, method: str, *codecs: Any, **options: Any) -> Any:
        return self._with_token(self._channel.stream_stream(method, *codecs, **options))

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None:
        return await self._channel.__aexit__(exc_type, exc_val, exc_tb)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def _with_token(self, multi_callable: Any) -> Any:
        def call(*request: Any, metadata: Iterable[tuple[str, str | bytes]] | None = None, **options: Any) -> Any:
            return multi_callable(*request, metadata=(*(metadata or ()), self._authorization), **options)

        return call
