"""What botocore knows of S3 is kept without what only people read."""

from __future__ import annotations

import json

from cdir_adapters.providers.s3.descriptions import descriptions


def test_operations_are_kept_and_texts_are_not() -> None:
    model = descriptions().load_service_model("s3", "service-2")
    assert {"GetObject", "PutObject", "UploadPart", "ListObjectsV2"} <= set(model["operations"])
    assert len(json.dumps(model)) < 400_000


def test_endpoints_are_those_of_the_service_and_of_its_credentials() -> None:
    partitions = descriptions().load_data("endpoints")["partitions"]
    assert "us-east-1" in partitions[0]["services"]["s3"]["endpoints"]
    assert {"s3", "sts"} <= set(partitions[0]["services"])
    assert all(len(partition["services"]) <= 5 for partition in partitions)
