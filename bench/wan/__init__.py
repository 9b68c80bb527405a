"""cdir beside rclone over an emulated wide-area network: `python -m wan` with `bench` and `tests` on the path."""
