"""The store functions: each takes a connection inside a transaction, and a request, and returns the response.

A function that writes may be run again after a rollback, so it keeps nothing outside the database. It first takes the
locks of what it changes (:mod:`cdir_catalog.store.locks`) and reads afterwards.
"""
