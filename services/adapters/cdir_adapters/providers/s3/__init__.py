"""The ``s3`` kind: Amazon S3 and the many services that speak its protocol.

Several client libraries share the work, by what was measured (``bench/s3_client_cost.py``): libcurl does all that is
small, at about an eighth of the processor time of aiobotocore, and listings; threads with urllib3 read what is large;
aiobotocore does what only it can do: buckets, access, uploads part by part, and the old signature version 2.
"""

from cdir_adapters.providers.s3.adapter import S3Adapter

__all__ = ["S3Adapter"]
