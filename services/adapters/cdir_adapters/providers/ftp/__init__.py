"""The ``ftp`` kind: a folder on an FTP server, plain or under TLS."""

from cdir_adapters.providers.ftp.adapter import FtpAdapter

__all__ = ["FtpAdapter"]
