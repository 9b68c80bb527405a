"""Ranges of a listing: everything that was listed is in exactly one, and what was not looked at is in none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cdir.v1.adapter_service_pb2 import ObjectInfo
from cdir_replicator.ranges import Folder, Gap, KeyRange, Listed, RangeCutter, end_of, place_of

NAMES = st.sampled_from(["a", "a.b", "a0", "aa", "b", "é", "日", "~"])
KEYS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), unique=True, max_size=30)


def walk(keys: list[str], unreadable: set[str]) -> list[Listed]:
    """What a lister yields for these files: sorted, each folder announced, unreadable ones as gaps."""
    steps: list[Listed] = []
    seen: set[str] = set()
    hidden: set[str] = set()
    for key in sorted(keys):
        names = key.split("/")
        for depth in range(1, len(names)):
            folder = "/".join(names[:depth])
            if folder in seen:
                continue
            seen.add(folder)
            if not any(folder.startswith(f"{above}/") for above in hidden):
                steps.append(Folder(folder))
                if folder in unreadable:
                    hidden.add(folder)
                    steps.append(Gap(folder))
        if not any(key.startswith(f"{folder}/") for folder in hidden):
            steps.append(ObjectInfo(key=key))
    return steps


def cut(steps: list[Listed], size: int, *, each: bool = False) -> list[KeyRange]:
    cutter = RangeCutter(size=size)
    found = [made for step in steps if (made := cutter.take(step, cut=each)) is not None]
    return [*found, cutter.finish()]


@given(KEYS, st.sets(NAMES, max_size=2), st.integers(1, 5), st.booleans())
def test_every_key_is_in_one_range_unless_its_folder_was_not_read(
    keys: list[str], unreadable: set[str], size: int, each: bool
) -> None:
    # a name is a file or a folder, not both
    keys = [key for key in keys if not any(other.startswith(f"{key}/") for other in keys)]
    ranges = cut(walk(keys, unreadable), size, each=each)
    listed = [info.key for made in ranges for info in made.objects]
    hidden = [key for key in keys if any(key.startswith(f"{folder}/") for folder in unreadable)]
    assert listed == sorted(set(keys) - set(hidden))
    for key in keys:
        covering = [made for made in ranges if made.after < key and (not made.until or key <= made.until)]
        assert len(covering) == (key not in hidden), key
    for made in ranges:
        assert len(made.objects) <= size
        assert all(made.after < info.key and (not made.until or info.key <= made.until) for info in made.objects)


def test_a_listing_taken_up_inside_an_unreadable_folder_goes_on_behind_it() -> None:
    cutter = RangeCutter("b/5")
    assert cutter.take(Gap("b")) is None
    assert cutter.cursor == end_of("b")
    assert cutter.take(ObjectInfo(key="b0")) is None
    assert cutter.finish() == KeyRange(end_of("b"), "", (ObjectInfo(key="b0"),))


def test_a_folder_stands_before_what_lies_below_it() -> None:
    objects = [
        ObjectInfo(key="a", directory=True),
        ObjectInfo(key="a.txt"),
        ObjectInfo(key="a0"),
    ]
    assert [info.key for info in sorted(objects, key=place_of)] == ["a.txt", "a", "a0"]
