"""The gateway: the only door to the virtual directory."""
