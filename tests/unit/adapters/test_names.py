import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdir_adapters.names import ESCAPE, NameEncoding
from cdir_adapters.providers.azure.adapter import AzureAdapter
from cdir_adapters.providers.s3.profiles import PROFILES as S3_PROFILES
from cdir_adapters.providers.webdav.settings import PROFILES as WEBDAV_PROFILES

WINDOWS = r"(?s:.*[\"*:<>?|\\].*|.*[. ]|(?i:con|nul|aux|prn|com\d|lpt\d)(?:\..*)?)"

encoding = NameEncoding(WINDOWS)
names = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=30)
odd_names = st.text(st.sampled_from(f"aA:*? .{ESCAPE}3FéCONnul1"), min_size=1, max_size=12)
keys = st.lists(names | odd_names, min_size=1, max_size=4).map("/".join)


@given(keys)
@example("con")
@example("COM1.txt")
@example("what?")
@example("trailing.")
@example(f"{ESCAPE}3F")
@example(f"a{ESCAPE}")
def test_what_is_encoded_comes_back(key: str) -> None:
    encoded = encoding.encode(key)
    assert encoding.decode(encoded) == key
    assert not any(re.fullmatch(WINDOWS, name) for name in encoded.split("/"))
    assert encoded.count("/") == key.count("/")


@given(keys, keys)
def test_two_names_never_meet(one: str, other: str) -> None:
    assert (encoding.encode(one) == encoding.encode(other)) == (one == other)


@given(keys)
def test_foreign_names_pass_or_decode(key: str) -> None:
    """A name someone else chose is either one that the encoding makes, or comes back untouched."""
    decoded = encoding.decode(key)
    for name, found in zip(key.split("/"), decoded.split("/"), strict=True):
        assert found == name or encoding.encode(found) == name


FORBIDDEN = {
    "azure": AzureAdapter.capability.forbidden_names,
    **{f"s3 {name}": profile.forbidden_names for name, profile in S3_PROFILES.items()},
    **{f"webdav {name}": profile.forbidden_names for name, profile in WEBDAV_PROFILES.items()},
}
tricky_names = st.text(st.sampled_from(f".;?\\ ~%#hHtTpPaArR{ESCAPE}20Ce\u2028\ufffe"), min_size=1, max_size=10)


@pytest.mark.parametrize("provider", [name for name, forbidden in FORBIDDEN.items() if forbidden])
@given(key=st.lists(names | tricky_names, min_size=1, max_size=3).map("/".join))
@example(key=".htaccess/.htpasswd")
@example(key="film.PART")
@example(key=" a /b ")
def test_what_is_encoded_comes_back_from_every_provider(provider: str, key: str) -> None:
    forbidden = FORBIDDEN[provider]
    assert forbidden
    own = NameEncoding(forbidden)
    encoded = own.encode(key)
    assert own.decode(encoded) == key
    assert not any(re.fullmatch(forbidden, name) for name in encoded.split("/"))


def test_plain_names_stay() -> None:
    assert encoding.encode("reports/Grüße 2024.txt") == "reports/Grüße 2024.txt"
    assert encoding.encode("a/what?") == f"a/what{ESCAPE}3F"
