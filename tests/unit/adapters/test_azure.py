from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import pytest

from cdir.errors import (
    AlreadyExists,
    CdirError,
    ConfigInvalid,
    Conflict,
    IntegrityError,
    InvalidArgument,
    InvalidPath,
    IsDirectory,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProviderUnavailable,
    RangeNotSatisfied,
    Retry,
    Unauthenticated,
    Unsupported,
)
from cdir_adapters.providers.azure import AzureAdapter, faults
from cdir_adapters.providers.azure.blocks import LARGEST_OBJECT, MAX_BLOCKS, MIN_BLOCK, block_sizes
from cdir_adapters.providers.azure.properties import (
    decode_metadata,
    encode_metadata,
    format_time,
    parse_time,
)
from cdir_adapters.providers.azure.settings import AzureSettings
from cdir_adapters.testing.trial import MIB, MODIFIED


@pytest.mark.parametrize(
    "options",
    [
        {"container": "A"},
        {"container": "a/b"},
        {"container": "two--hyphens"},
        {"container": "con", "account": "acc"},
        {"container": "con", "account": "acc", "key": "not base64: s3cr3t"},
        {"container": "con", "account": "acc", "key": "a2V5", "sas": "sig=s3cr3t"},
        {"container": "con", "account": "a-c", "key": "a2V5"},
        {"container": "con", "endpoint": "https://host", "key": "a2V5"},
        {"container": "con", "sas": "sig=s3cr3t"},
        {"container": "con", "account": "acc", "sas": "s3cr3t"},
        {"container": "con", "account": "acc", "sas": "https://host/?sig=s3cr3t"},
        {"container": "con", "account": "acc", "key": "a2V5", "endpoint": "host"},
        {"container": "con", "account": "acc", "key": "a2V5", "endpoint": "https://host?sig=s3cr3t"},
        {"container": "con", "account": "acc", "key": "a2V5", "endpoint": "https://u:s3cr3t@host"},
        {"container": "con", "connection_string": "s3cr3t"},
        {"container": "con", "connection_string": "AccountKey=a2V5"},
        {"container": "con", "connection_string": "AccountName=acc"},
        {"container": "con", "connection_string": "AccountName=acc;AccountKey=a2V5", "account": "acc"},
    ],
)
def test_options_that_cannot_be(options: Mapping[str, str]) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        AzureAdapter("store", options)
    assert "s3cr3t" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("AccountName=acc;AccountKey=a2V5", "https://acc.blob.core.windows.net"),
        (
            "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.chinacloudapi.cn",
            "https://acc.blob.core.chinacloudapi.cn",
        ),
        ("BlobEndpoint=https://acc.example.org/;SharedAccessSignature=sv=1&sig=a%3D", "https://acc.example.org"),
        ("UseDevelopmentStorage=true", "http://127.0.0.1:10000/devstoreaccount1"),
    ],
)
def test_connection_strings(text: str, endpoint: str) -> None:
    settings = AzureSettings.from_options({"container": "con", "connection_string": text})
    assert settings.endpoint == endpoint


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "BlobNotFound", NotFound),
        (404, "CannotVerifyCopySource", NotFound),
        (403, "CannotVerifyCopySource", PermissionDenied),
        (404, "ContainerNotFound", ProviderUnavailable),
        (409, "ContainerBeingDeleted", ProviderUnavailable),
        (409, "BlobAlreadyExists", AlreadyExists),
        (412, "ConditionNotMet", PreconditionFailed),
        (304, "ConditionNotMet", PreconditionFailed),
        (412, "LeaseIdMissing", PermissionDenied),
        (409, "BlobImmutableDueToPolicy", PermissionDenied),
        (409, "SnapshotsPresent", Conflict),
        (409, "InvalidBlobType", Conflict),
        (409, "BlobArchived", Unsupported),
        (409, "DirectoryIsNotEmpty", IsDirectory),
        (409, "SomethingNew", Conflict),
        (400, "InvalidBlockList", ProviderUnavailable),
        (400, "InvalidBlobOrBlock", Conflict),
        (400, "Md5Mismatch", IntegrityError),
        (400, "MetadataTooLarge", InvalidPath),
        (413, "RequestBodyTooLarge", InvalidPath),
        (416, "InvalidRange", RangeNotSatisfied),
        (400, "InvalidHeaderValue", InvalidArgument),
        (403, "KeyBasedAuthenticationNotPermitted", Unauthenticated),
        (407, "", ConfigInvalid),
        (501, "", Unsupported),
        (0, "", ProviderUnavailable),
    ],
)
def test_answers_become_errors(status: int, code: str, expected: type[CdirError]) -> None:
    named = faults.Faults("store", "con")
    headers = {"x-ms-error-code": code, "Retry-After": "7"}
    error = named.error(faults.Fault.of_answer(status, headers), "testing", "key")
    assert type(error) is expected
    assert error.retry_after == (7.0 if error.retry is Retry.LATER else None)
    in_body = faults.Fault.of_answer(status, {}, f"<?xml?><Error><Code>{code}</Code></Error>")
    assert type(named.error(in_body, "testing", "key")) is expected


def test_codes_of_a_hostile_server_are_not_repeated() -> None:
    for code in ("a\nb", "<script>", "x" * 100, "ünïcödé"):
        assert faults.Fault.of_answer(500, {"x-ms-error-code": code}).code == ""
    for text in ("soon", "-1", "1e99", "inf", "9" * 20):
        assert faults.Fault.of_answer(503, {"Retry-After": text}).retry_after is None
    assert faults.Fault.of_answer(503, {"x-ms-retry-after-ms": "1500"}).retry_after == 1.5


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2001, 2, 3, 4, 5, 6, 123457, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 58, 750000, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_modified_time_survives_as_text(moment: datetime) -> None:
    assert parse_time(format_time(moment)) == moment


def test_modified_time_of_others() -> None:
    wanted = datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    for text in ("2023-11-14T22:13:20.123456789Z", "2023-11-14T23:13:20.123456+01:00", "1700000000.123456789"):
        assert parse_time(text) == wanted
    assert parse_time("1700000000") == wanted.replace(microsecond=0)
    assert parse_time("-1.25") == datetime(1969, 12, 31, 23, 59, 58, 750000, tzinfo=UTC)
    for unreadable in (None, "", "yesterday", "nan", "999999999999", "2023-13-14T22:13:20Z", "2023-11-14"):
        assert parse_time(unreadable) is None


@pytest.mark.parametrize("value", ["plain", "", "Žofie 日本", " spaces ", "line\nbreak", "=?utf-8?q?=", "a=?b", "%41"])
@pytest.mark.parametrize("name", ["name", "cdir-version", "a_bc", "1st", "mtime", "_2d", "ž", "x__5f-"])
def test_metadata_survives_headers(name: str, value: str) -> None:
    sent = encode_metadata(MODIFIED, {name: value})
    assert all(text.isascii() and text.isprintable() and text for text in sent.values())
    assert all(key.isidentifier() and key.isascii() for key in sent)
    assert decode_metadata(sent) == {name: value}


def test_metadata_of_others_stays() -> None:
    others = {"my_key": "x", "a_c3": "y", "_": "z"}
    assert decode_metadata(others) == others


def test_largest_object_has_not_too_many_blocks() -> None:
    for size in (17 * MIB, MAX_BLOCKS * MIN_BLOCK, MAX_BLOCKS * MIN_BLOCK + 1, LARGEST_OBJECT):
        block = next(block_sizes(size))
        assert -(-size // block) <= MAX_BLOCKS
        assert block >= MIN_BLOCK
