"""The deployment in which every service is a process of its own, on one machine and on PostgreSQL.

It imports no service: what the processes share are environment variables and the protos. Deployments over several
machines start the same modules with the same variables.
"""
