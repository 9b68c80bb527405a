"""The ``s3`` kind: Amazon S3 and the many services that speak its protocol.

Two client libraries share the work, by what was measured (``bench/s3_client_cost.py``): obstore sends and fetches small
objects at about a third of the processor time of aiobotocore; aiobotocore does what only it can do: buckets, listings
that survive strange names, details of objects, multipart uploads part by part, and the old signature version 2.
"""

from cdir_adapters.providers.s3.adapter import S3Adapter

__all__ = ["S3Adapter"]
