"""Starters of real servers for tests.

Each module has ``missing()`` (what must be installed, or ``None``) and one async context manager that starts a server
in a fresh folder on a free loopback port and stops it again, by pid. In a fixture, call
:func:`servers.requirement.require` with the modules first.
"""
