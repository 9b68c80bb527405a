"""The ``azure`` kind: Azure Blob Storage, in the public cloud, in the sovereign ones, and its emulator Azurite.

Microsoft's library makes containers, describes, lists, copies and deletes objects, and signs. Bytes travel by plain
requests with such a signature in their URL: the library's downloader tries again by itself, which is the matter of one
layer here, and holds whole answers in memory; its uploader hashes, and hands large bodies to the socket, in one go on
the event loop.
"""

from cdir_adapters.providers.azure.adapter import AzureAdapter

__all__ = ["AzureAdapter"]
