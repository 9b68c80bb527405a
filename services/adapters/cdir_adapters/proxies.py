"""Which proxy stands before a server, as the environment says.

aiohttp could find out by itself, but would then look into ``.netrc`` for every request as well, and send credentials
that nobody has given to the provider, or refuse to send those that were.
"""

from __future__ import annotations

import urllib.request

from yarl import URL

__all__ = ["proxy_for"]


def proxy_for(url: URL) -> URL | None:
    """Return the proxy that the environment names for a URL; ``None`` for none. Without a scheme, it is ``http``."""
    if url.host is None or urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxy = urllib.request.getproxies().get(url.scheme)
    if not proxy:
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")
