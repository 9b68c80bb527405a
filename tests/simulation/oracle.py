"""What may be seen at each name, from the promises alone.

For every path the oracle keeps the contents that may be current there. A change that ran alone and succeeded leaves
exactly one; changes at the same time, and those whose answer was lost in a crash, leave several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["Operation", "Oracle", "Outcome", "Visit"]

Content = bytes | None
"""What lies at a path; ``None``: nothing."""

_TOLERANCE = 4_000_000_000
"""Nanoseconds by which times must differ for one to be surely the newer: the coarsest provider cuts a time by up to two
seconds, and what it shows must then be newer by two seconds more."""

_NOTHING: frozenset[Content] = frozenset({None})


class Outcome:
    """How a change ended, as its caller sees it."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(eq=False)
class Operation:
    """A change or a read under way."""

    number: int
    verb: str
    path: str
    target: str = ""
    content: Content = None
    effects: dict[str, set[Content]] = field(default_factory=dict)
    """What it may leave at each name, as far as was known when it began."""
    keep: bool = False
    """The content may be kept beside its path."""
    overlapped: bool = False
    """Another change of one of its names ran at the same time."""
    allowed: set[Content] = field(default_factory=set)
    """What a read may return."""


@dataclass(frozen=True)
class Visit:
    """An object that another program has put at a provider."""

    content: bytes
    modified: int | None
    """In nanoseconds; ``None`` where the provider does not keep what its writers say."""


@dataclass(eq=False)
class _Name:
    possible: set[Content] = field(default_factory=lambda: set(_NOTHING))
    changing: list[Operation] = field(default_factory=list)
    reading: list[Operation] = field(default_factory=list)
    meddled: set[Content] = field(default_factory=set)
    """What another program has put there while users were at work: cdir may find it at any time from then on."""


class Oracle:
    """Knows the names that users use, and those to which directories are moved."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._names = {path: _Name() for path in paths}
        self.acknowledged: dict[bytes, str] = {}
        """Contents whose write succeeded, with where they were written."""
        self.modified: dict[bytes, int | None] = {}
        """By which times contents are compared, in nanoseconds; ``None`` where nobody knows."""
        self.beside: dict[str, bytes] = {}
        """Conflicting copies that were acknowledged, by path. A directory that is moved takes them along."""
        self._may_be_beside: set[bytes] = set()
        self.violations: list[str] = []

    @property
    def paths(self) -> list[str]:
        return sorted(self._names)

    def possible(self, path: str) -> frozenset[Content]:
        return frozenset(self._names[path].possible)

    def violated(self, what: str) -> None:
        self.violations.append(what)

    # --- changes ------------------------------------------------------------------------------------------------------

    def begin(self, change: Operation) -> None:
        for path, contents in self._effects(change):
            change.effects.setdefault(path, set()).update(contents)
        self._carry_meddled(change)
        for path in sorted(change.effects):
            name = self._names[path]
            for other in name.changing:
                other.overlapped = change.overlapped = True
            name.changing.append(change)
        self._show(change)
        if change.keep and change.content is not None:
            self._may_be_beside.add(change.content)

    def end(self, change: Operation, outcome: str) -> None:
        for path in sorted(change.effects):
            self._names[path].changing.remove(change)
        if outcome == Outcome.FAILED:
            return
        if change.content is not None and outcome == Outcome.DONE:
            self.acknowledged[change.content] = change.path
        exactly = outcome == Outcome.DONE and not change.overlapped
        for path, contents in self._effects(change):
            name = self._names[path]
            if exactly:
                name.possible = contents | name.meddled
            else:
                name.possible |= contents
        self._show(change)

    def kept_beside(self, change: Operation, path: str) -> None:
        """The content of a write was acknowledged as a conflicting copy."""
        assert change.content is not None
        self.beside[path] = change.content
        self.acknowledged[change.content] = path
        if not change.keep:
            self.violated(f"step {change.number} was kept at {path}, which it did not ask for")

    def is_conflicting_copy(self, path: str, content: Content) -> bool:
        """Say whether a file that no step has named is a write's that asked to be kept beside its path."""
        return "conflicting copy of" in path and content in self._may_be_beside

    def visit(self, path: str, visits: Iterable[Visit]) -> None:
        """Others have put objects at a path while all was at rest: the newest wins, and every one is kept."""
        name = self._names[path]
        visits = list(visits)
        for visit in visits:
            self.acknowledged[visit.content] = path
        found: set[Content] = set()
        for content in name.possible:
            contenders: list[tuple[bytes, int | None]] = [(visit.content, visit.modified) for visit in visits]
            if content is not None:
                contenders.append((content, self.modified[content]))
            times = [modified for _, modified in contenders if modified is not None]
            if not contenders:
                found.add(None)
            elif len(times) < len(contenders):
                found.update(one for one, _ in contenders)
            else:
                found.update(
                    one for one, modified in contenders if modified is not None and modified >= max(times) - _TOLERANCE
                )
        name.possible = found

    def meddle(self, path: str, content: bytes) -> None:
        """Another program puts an object at a path while users are at work. It may become current, now or later, or be
        replaced before cdir has seen it; what users were told to be stored is kept all the same."""
        name = self._names[path]
        name.meddled.add(content)
        name.possible.add(content)
        for read in name.reading:
            read.allowed.add(content)
        for change in name.changing:
            self._carry_meddled(change)
            self._show(change)

    def _carry_meddled(self, change: Operation) -> None:
        """A rename at the provider takes what lies there along, whoever put it there."""
        if change.verb != "move":
            return
        for path in self._below(change.path):
            target = self._names.setdefault(change.target + path.removeprefix(change.path), _Name())
            target.meddled |= self._names[path].meddled
            target.possible |= self._names[path].meddled

    def _effects(self, change: Operation) -> list[tuple[str, set[Content]]]:
        """Return what the change leaves at each name when it succeeds."""
        if change.verb == "put":
            return [(change.path, {change.content})]
        if change.verb == "remove":
            return [(path, {None}) for path in self._below(change.path)]
        effects: list[tuple[str, set[Content]]] = []
        for path in self._below(change.path):
            target = change.target + path.removeprefix(change.path)
            self._names.setdefault(target, _Name())
            contents = self._found_by(change, path)
            if path == change.path:
                # a file that was moved was there; below a directory that is moved there may be nothing at this name
                contents = contents - _NOTHING or contents
            effects += [(target, contents), (path, {None})]
        return effects

    def _found_by(self, change: Operation, path: str) -> set[Content]:
        """Return what the change may find at a path, with what other changes under way may leave there."""
        name = self._names[path]
        return name.possible.union(*(other.effects[path] for other in name.changing if other is not change))

    def _below(self, path: str) -> list[str]:
        return [name for name in self.paths if name == path or name.startswith(f"{path}/")]

    # --- reads --------------------------------------------------------------------------------------------------------

    def begin_read(self, read: Operation) -> None:
        name = self._names[read.path]
        name.reading.append(read)
        read.allowed |= name.possible
        for change in name.changing:
            self._show(change)

    def end_read(self, read: Operation, seen: Content, *, describe: Callable[[Content], str]) -> None:
        self.forget_read(read)
        if seen not in read.allowed:
            allowed = ", ".join(sorted(map(describe, read.allowed)))
            self.violated(f"step {read.number} read {describe(seen)} at {read.path}; possible: {allowed}")

    def forget_read(self, read: Operation) -> None:
        """The read failed, which says nothing."""
        self._names[read.path].reading.remove(read)

    def _show(self, change: Operation) -> None:
        """Let the reads under way see what a change may leave."""
        for path, contents in self._effects(change):
            name = self._names[path]
            for read in name.reading:
                read.allowed |= contents | name.possible
