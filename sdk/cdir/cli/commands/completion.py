"""``completion``: shell completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cdir.cli.app import app
from cdir.cli.command import command
from cdir.cli.session import Session
from cdir.errors import Unsupported

__all__ = ["completion"]


@command(
    "completion",
    'eval "$(cdir completion bash)"      # in ~/.bashrc',
    'eval "$(cdir completion zsh)"       # in ~/.zshrc',
    "cdir completion fish > ~/.config/fish/completions/cdir.fish",
    needs_daemon=False,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
async def completion(session: Session, shell: str) -> None:
    """Print the code that completes commands and options in your shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise Unsupported(f"no completion for {shell}")
    session.output.line(kind(app, {}, "cdir", "_CDIR_COMPLETE").source())
