"""Layers: adapters that wrap an adapter. Each does one thing; :func:`stack` puts them in the order of production."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from cdir_adapters.adapter import Adapter
from cdir_adapters.capability import Capability
from cdir_adapters.layers.breaker import BreakerAdapter, BreakerSettings, BreakerState
from cdir_adapters.layers.metrics import MetricsAdapter, MetricsSnapshot
from cdir_adapters.layers.narrow import NarrowAdapter
from cdir_adapters.layers.ratelimit import Limits, LimitSettings, RateLimitAdapter
from cdir_adapters.layers.retry import RetryAdapter, RetrySettings
from cdir_adapters.layers.timeout import TimeoutAdapter, TimeoutSettings
from cdir_adapters.layers.verify import VerifyAdapter
from cdir_adapters.layers.wrapper import WrapperAdapter

__all__ = [
    "BreakerAdapter",
    "BreakerSettings",
    "BreakerState",
    "LayerSettings",
    "LimitSettings",
    "MetricsAdapter",
    "MetricsSnapshot",
    "NarrowAdapter",
    "RateLimitAdapter",
    "RetryAdapter",
    "RetrySettings",
    "TimeoutAdapter",
    "TimeoutSettings",
    "VerifyAdapter",
    "WrapperAdapter",
    "find_layer",
    "stack",
]

LayerT = TypeVar("LayerT", bound=Adapter)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerSettings:
    timeout: TimeoutSettings = dataclasses.field(default_factory=TimeoutSettings)
    retry: RetrySettings = dataclasses.field(default_factory=RetrySettings)
    limits: LimitSettings = dataclasses.field(default_factory=LimitSettings)
    breaker: BreakerSettings = dataclasses.field(default_factory=BreakerSettings)


def stack(
    adapter: Adapter,
    settings: LayerSettings | None = None,
    *,
    capability: Capability | None = None,
    bandwidth: int = 0,
    before: Adapter | None = None,
    behind: Adapter | None = None,
) -> Adapter:
    """Return ``adapter`` as production uses it. From the outside in:

    * *narrow* refuses what ``capability``, the record probed for this provider, does not allow (``None`` keeps all that
      the adapter declares): what cannot work should cost nothing and count nowhere;
    * *metrics* measures what callers see, refusals by the breaker and pauses between attempts included;
    * *breaker* stands outside the retries, so that a provider that is down costs its callers nothing, and one count is
      a call that failed for good;
    * *retry* stands outside the limits, so that every attempt waits its turn, and a pause holds no place;
    * *ratelimit* stands outside the timeout, so that waiting for a turn is not taken for a silent provider;
    * *timeout* bounds one attempt;
    * *verify* is innermost, so that the others see only answers that hold.

    ``bandwidth`` is in bytes per second each way; 0 is no limit beyond that of ``settings``. ``before`` is the stack
    over the same adapter that this one replaces: what is under way in it counts here, and is held to this bandwidth.
    With ``behind``, another stack over the same adapter, this one shares its limits and serves the background: calls
    that hold back for those to the other one. Closing the stack closes the adapter.
    """
    settings = settings or LayerSettings()
    stacked: Adapter = VerifyAdapter(adapter)
    stacked = TimeoutAdapter(stacked, settings.timeout)
    if behind is not None:
        stacked = RateLimitAdapter(stacked, shared=_limits_of(behind), background=True)
    else:
        shared = None if before is None else _limits_of(before)
        limits = settings.limits.within(adapter.calls_at_once, adapter.objects_at_once)
        stacked = RateLimitAdapter(stacked, limits, shared=shared)
        stacked.limits.set_bandwidth(bandwidth or settings.limits.bandwidth)
    stacked = RetryAdapter(stacked, settings.retry)
    stacked = BreakerAdapter(stacked, settings.breaker)
    stacked = MetricsAdapter(stacked)
    return stacked if capability is None else NarrowAdapter(stacked, capability)


def _limits_of(stacked: Adapter) -> Limits:
    layer = find_layer(stacked, RateLimitAdapter)
    assert layer is not None, "a stack always has this layer"
    return layer.limits


def find_layer(adapter: Adapter, layer: type[LayerT]) -> LayerT | None:
    """Return the outermost layer of that class in a stack; ``None`` when there is none."""
    found: Adapter | None = adapter
    while found is not None:
        if isinstance(found, layer):
            return found
        found = found.inner if isinstance(found, WrapperAdapter) else None
    return None
