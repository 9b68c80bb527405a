"""A deployment that dies at a named point of a protocol, and what must hold once it was started again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdir.blocking import BlockingClient, connect_blocking
from cdir.checking import Finding
from cdir.errors import CdirError
from cdir.model import EntryKind
from deployments.deployment import HANG_SECONDS, Deployment, eventually, eventually_is
from deployments.trees import contents

__all__ = ["CrashWorld", "Files", "Scenario"]

Files = Mapping[str, bytes]
"""Contents by name below a scenario's folder."""

_ACKNOWLEDGED: Final = (0, 3)
"""Exit codes after which what a command was asked to do has to be so for ever."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a command does to a folder that no other scenario uses. In its arguments ``@`` is the folder."""

    before: Files
    after: Files
    """The files once the command is done. There is nothing between the two: what a command changes here, it changes at
    once."""
    command: Sequence[str]
    setup: Sequence[Sequence[str]] = ()
    """Commands that come first, with nothing armed."""
    while_down: Callable[[Mapping[str, Path]], None] = lambda _: None
    """What others do to the folder at each provider before the deployment that will die is started."""
    kept: Files = field(default_factory=dict)
    """Older contents that must stay readable as generation 1."""
    holders: Sequence[str] = ()
    """The providers that hold every file in the end; all when empty."""
    copies_stay: bool = False
    """Whether the other providers keep what they hold."""
    first: str = ""
    """A point to die at before: the deployment is then started with the other point armed, and recovers from this."""
    restore: Sequence[Sequence[str]] = ()
    """Commands that undo what would concern other scenarios."""


@dataclass
class CrashWorld:
    """One deployment with providers, in which scenarios run one after the other, each in a folder of its own."""

    deployment: Deployment
    roots: Mapping[str, Path]
    scratch: Path
    stored: dict[str, bytes] = field(default_factory=dict)
    """Every file there must be by now, by path."""

    def run(self, folder: str, scenario: Scenario, point: str) -> None:
        """Let ``scenario`` die at ``point``, start again, and check everything that was promised."""
        deployment = self.deployment
        places = {name: root / folder[1:] for name, root in self.roots.items()}
        self._prepare(folder, scenario)
        deployment.kill()
        scenario.while_down(places)

        acknowledged = False
        for armed in filter(None, (scenario.first, point)):
            self._start(armed)
            # a point in the background may be passed, and the deployment be gone, before the command is given
            done = deployment.cdir(*self._arguments(folder, scenario.command), "--no-start", expect=None)
            acknowledged |= done.exit in _ACKNOWLEDGED
            deployment.wait_dead()
            assert "Traceback" not in done.stderr
            self._nothing_half(places, scenario)
        self._start("")

        with self.client() as client:
            found = _files(client, folder)
            if acknowledged:
                assert found == scenario.after, "what was acknowledged is not so"
            else:
                assert found in (scenario.before, scenario.after)
        if found != scenario.after or scenario.before == scenario.after:
            # right after the start a write that was cut off may still hold its path
            eventually(lambda: self._again(folder, scenario))
        self.settle()
        with self.client() as client:
            eventually_is([], _findings, client)
        self._everything_right(folder, places, scenario)
        for command in scenario.restore:
            deployment.cdir(*self._arguments(folder, command))

    @contextlib.contextmanager
    def client(self) -> Iterator[BlockingClient]:
        """A client of the running deployment."""
        with connect_blocking(self.deployment.address, self.deployment.environment().get("CDIR_TOKEN")) as client:
            yield client

    def settle(self) -> None:
        """Wait until nothing is owed and everything is placed."""

        def settled() -> bool:
            status = client.tree_status("/")
            return not status.owed and not status.unplaced

        with self.client() as client:
            eventually(settled, within=HANG_SECONDS, pause=0.02)

    def files(self, folder: str) -> dict[str, bytes]:
        """Every file at or below a folder, read through cdir, by relative path; none where there is no such folder."""
        with self.client() as client:
            return _files(client, folder) if client.find(folder) is not None else {}

    def check_all(self) -> None:
        """Read every file of every scenario so far, and hold the catalog against the providers."""
        self.deployment.cdir("check", "/", "--deep")
        with self.client() as client:
            for path, content in self.stored.items():
                assert client.read(path) == content, path

    def _prepare(self, folder: str, scenario: Scenario) -> None:
        with self.client() as client:
            client.make_directory(folder)
            for command in scenario.setup:
                self.deployment.cdir(*self._arguments(folder, command))
            for name, content in scenario.before.items():
                client.write(f"{folder}/{name}", content)
        self.settle()

    def _arguments(self, folder: str, command: Sequence[str]) -> list[str]:
        """A command's arguments, with local files where it names contents to put."""
        made = []
        for argument in command:
            if argument.startswith("content:"):
                source = self.scratch / "source"
                source.write_bytes(argument.removeprefix("content:").encode())
                made.append(str(source))
            elif argument.startswith("contents:"):
                sources = self.scratch / "sources"
                sources.mkdir(exist_ok=True)
                for named in argument.removeprefix("contents:").split(","):
                    name, _, content = named.partition("=")
                    (sources / name).write_bytes(content.encode())
                made.append(str(sources))
            else:
                made.append(argument.replace("@", folder))
        return made

    def _start(self, point: str) -> None:
        self.deployment.crash_at = point
        self.deployment.start_or_die()

    def _again(self, folder: str, scenario: Scenario) -> bool:
        done = self.deployment.cdir(*self._arguments(folder, scenario.command), expect=None)
        with self.client() as client:
            as_wanted = _files(client, folder) == scenario.after
        # where the files stay as they are, they do not tell whether the command did its work
        return as_wanted and (scenario.before != scenario.after or done.exit in _ACKNOWLEDGED)

    def _nothing_half(self, places: Mapping[str, Path], scenario: Scenario) -> None:
        """What lies under a file's own name is a whole content, at every moment."""
        whole = {*scenario.before.values(), *scenario.after.values(), *scenario.kept.values()}
        for name, place in places.items():
            for path in place.rglob("*"):
                if path.is_file() and not path.name.startswith(".cdir-tmp-"):
                    assert path.read_bytes() in whole, f"{path.name} at {name} is half there"

    def _everything_right(self, folder: str, places: Mapping[str, Path], scenario: Scenario) -> None:
        with self.client() as client:
            assert _files(client, folder) == scenario.after
            for name, content in scenario.kept.items():
                assert client.read(f"{folder}/{name}", generation=1) == content
        self.stored.update({f"{folder}/{name}": content for name, content in scenario.after.items()})
        for name, place in places.items():
            if not scenario.holders or name in scenario.holders:
                eventually_is(dict(scenario.after), _lying, place)
            elif not scenario.copies_stay:
                eventually_is({}, _lying, place)


def _files(client: BlockingClient, folder: str) -> dict[str, bytes]:
    """Every file below a folder, read through cdir."""
    try:
        paths = [entry.path for entry in client.list(folder, recursive=True) if entry.kind is EntryKind.FILE]
    except CdirError as error:
        raise AssertionError(f"{folder} cannot be listed: {error}") from error
    return {path.removeprefix(f"{folder}/"): client.read(path) for path in paths}


def _findings(client: BlockingClient) -> list[Finding]:
    """What ``cdir check`` finds."""
    return [step for step in client.check() if isinstance(step, Finding)]


def _lying(place: Path) -> dict[str, bytes]:
    """Every file that lies at a provider under its own name."""
    return {name: (place / name).read_bytes() for name in contents(place)}
