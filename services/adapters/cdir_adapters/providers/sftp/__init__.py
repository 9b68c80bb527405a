"""The ``sftp`` kind: a folder on a computer reached by SSH."""

from cdir_adapters.providers.sftp.adapter import SftpAdapter

__all__ = ["SftpAdapter"]
