"""The ``webdav`` kind: Nextcloud, ownCloud, Apache and everything else that speaks WebDAV (RFC 4918), over aiohttp.

WebDAV promises little: a PUT may leave half a file, a MOVE deletes its target first, a DELETE takes a whole folder, and
nothing creates a file exclusively. What is done about each stands where it is done: ``adapter.py`` writes, ``tree.py``
looks and makes folders, ``uploads.py`` sends large files in chunks, ``wire.py`` makes the requests.
"""

from cdir_adapters.providers.webdav.adapter import WebdavAdapter

__all__ = ["WebdavAdapter"]
