"""The commands, a module per group of them. Each is imported only when one of its commands is used."""
