"""cdir on a virtual clock: real services, simulated providers, seeded faults, and an oracle of what was promised.

``python -m simulation --help`` runs scenarios; ``docs/testing.md`` says how to read a failure.
"""
