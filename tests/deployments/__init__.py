"""Whole deployments of cdir for tests: started, driven through the real command line, killed and restarted.

The same tests run on both: everything in one process, and every service as its own process on PostgreSQL.
"""
