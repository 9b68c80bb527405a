"""The conformance suite as a test class, for adapters in this tree and out of it.

A subclass says how to open the adapter and how to go around it::

    class TestMine(AdapterConformance):
        @pytest.fixture
        async def adapter(self):
            async with MyAdapter("mine", {...}) as adapter:
                await adapter.prepare()
                yield adapter

        async def raw_put(self, key: str, data: bytes) -> None: ...
        async def raw_get(self, key: str) -> bytes | None: ...

Run it with pytest and pytest-asyncio in its automatic mode (the extra ``testing``); this module imports neither, so
that a service can run the same cases on a user's provider (:func:`run_conformance`). Cases are chosen by the adapter's
capability, in both directions: a true flag must behave, a false one must raise Unsupported.
"""

from __future__ import annotations

import unittest
from typing import Any, ClassVar

from cdir_adapters.adapter import Adapter
from cdir_adapters.testing.runner import CASES, Outcome, Result, run_case, run_conformance
from cdir_adapters.testing.trial import Case

__all__ = ["CASES", "AdapterConformance", "Outcome", "Result", "run_conformance"]


class AdapterConformance:
    """Every case, as one parametrised test. The fixture ``adapter`` is prepared; ``self`` is the same in it and in the
    raw hooks."""

    many: ClassVar[int] = 60
    """How many objects the long listing has; more than a page where that is quick."""
    prefix: ClassVar[str] = "conformance"
    """The folder that the cases work in."""

    async def raw_put(self, key: str, data: bytes) -> None:
        """Put an object behind the adapter's back, folders included."""
        raise NotImplementedError

    async def raw_get(self, key: str) -> bytes | None:
        """Get an object behind the adapter's back; ``None`` when it is missing."""
        raise NotImplementedError

    async def raw_open(self, key: str) -> None:
        """Let everyone read an object behind the adapter's back; needed where ``acl`` is true."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make a test of every case."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", CASES, ids=[case.name for case in CASES])

    async def test_conforms(self, adapter: Adapter, case: Case) -> None:
        if not case.selected(adapter.capability):
            raise unittest.SkipTest(f"capability: needs {case.needs}")
        await run_case(
            case,
            adapter,
            self.prefix,
            raw_put=self.raw_put,
            raw_get=self.raw_get,
            raw_open=self.raw_open,
            many=self.many,
        )
