"""The ``rclone`` kind: a bridge to the services that rclone speaks to, over its remote control.

One child process ``rclone rcd`` serves one adapter, on a Unix socket in a private folder. ``program.py`` starts and
ends it, ``wire.py`` talks to it, ``staging.py`` holds what is on its way to it, ``faults.py`` reads what it says went
wrong.
"""

from cdir_adapters.providers.rclone.adapter import RcloneAdapter

__all__ = ["RcloneAdapter"]
