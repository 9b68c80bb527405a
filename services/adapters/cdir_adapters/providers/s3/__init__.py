"""The ``s3`` kind: Amazon S3 and the many services that speak its protocol.

Several ways share the work, by what was measured (``bench/s3_client_cost.py``): connections of its own, which parse
with httptools, do all that is small, at less than an eighth of the processor time of aiobotocore, and listings; threads
with urllib3 read what is large; aiobotocore does what only it can do: buckets, access, uploads part by part, and the
old signature version 2.
"""

from cdir_adapters.providers.s3.adapter import S3Adapter

__all__ = ["S3Adapter"]
