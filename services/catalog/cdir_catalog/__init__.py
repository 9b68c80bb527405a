"""The catalog: the service that owns all state of a cdir and answers from it alone."""
