"""Google Cloud Storage by its JSON API, over plain HTTP: resumable uploads, and conditions on generations.

Google's library is used for tokens alone; it blocks, and knows no asyncio.
"""

from cdir_adapters.providers.gcs.adapter import GcsAdapter

__all__ = ["GcsAdapter"]
