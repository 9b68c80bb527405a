"""Write the reference pages that follow from the code: ``python docs/reference.py`` (``--check`` compares instead).

The descriptions of capabilities, errors and provider options live beside the code they describe; these pages only show
them.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _documented_fields(source: Path, class_name: str) -> Iterator[tuple[str, str, str]]:
    """Yield (name, default, text) of the fields of a class, the text being the string below the field."""
    tree = ast.parse(source.read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name).body
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            yield field.target.id, ast.unparse(field.value) if field.value else "", text


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _choices(choices: tuple[str, ...]) -> str:
    return f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""


def adapters_page() -> str:
    from cdir_adapters import registry

    lines = [
        "# Providers: kinds, options, capabilities",
        "",
        "Written by `docs/reference.py` from the code.",
        "",
        "## Kinds and options",
        "",
        "Options are given with `--set NAME=VALUE`, secret ones with `--secret NAME`. Of every kind: `--location`,",
        "`--priority`, `--cost`, `--read-only`, `--bandwidth`.",
        "",
    ]
    for kind in registry.kinds().values():
        lines += [f"### {kind.kind}", "", kind.description, ""]
        if kind.options:
            lines += ["| option | type | needed | secret | default | meaning |", "|---|---|---|---|---|---|"]
            lines += [
                f"| `{o.name}` | {o.type} | {'yes' if o.required else ''} | {'yes' if o.secret else ''} | "
                f"{o.default if o.default not in (None, '') else ''} | {_cell(o.description)}{_choices(o.choices)} |"
                for o in kind.options
            ]
            lines.append("")
    lines += [
        "## Capabilities",
        "",
        "What a provider can do, probed when it is added (`cdir provider show NAME`). A true flag behaves as it says,",
        "a false one raises Unsupported; the conformance suite (`cdir provider check --full NAME`) tests both.",
        "",
        "| field | default | meaning |",
        "|---|---|---|",
    ]
    capability = ROOT / "services/adapters/cdir_adapters/capability.py"
    lines += [f"| `{n}` | `{d}` | {_cell(t)} |" for n, d, t in _documented_fields(capability, "Capability")]
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    from cdir import errors, status
    from cdir.cli import exits

    lines = [
        "# Errors",
        "",
        "Written by `docs/reference.py` from the code. A reason is stable; it travels in `google.rpc.ErrorInfo`, with",
        "the domain `cdir`.",
        "",
        "| reason | gRPC status | `cdir` exits with | retry helps | meaning |",
        "|---|---|---|---|---|",
    ]
    for name in errors.__all__:
        cls = getattr(errors, name)
        if not (isinstance(cls, type) and issubclass(cls, errors.CdirError)) or cls is errors.CdirError:
            continue
        error = cls("example")
        code, _, _ = status.to_status(error)
        meaning = " ".join((cls.__doc__ or "").split())
        cells = (f"`{cls.reason}`", code.name, str(int(exits.exit_of_error(error))), error.retry.value, _cell(meaning))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def providers_page() -> str:
    from cdir_adapters.known_services import KNOWN_SERVICES

    lines = [
        "# Storage services",
        "",
        "Written by `docs/reference.py` from the code. How each service is reached today: `cdir provider add NAME`,",
        "`--kind`, and what stands in its line. *Proven against* names the servers against which the kind passes its",
        "tests; none was tried with an account at the service itself. The options of each kind are in",
        "[adapters.md](adapters.md).",
        "",
        "| service | cost | reached | kind | how | proven against |",
        "|---|---|---|---|---|---|",
    ]
    for one in KNOWN_SERVICES:
        kind = f"`{one.kind}`" if one.kind else ""
        lines.append(f"| {one.name} | {one.cost} | {one.reach} | {kind} | {_cell(one.how)} | {_cell(one.proven)} |")
    return "\n".join([*lines, *_several_accounts()]) + "\n"


def _several_accounts() -> list[str]:
    from cdir.place_templates import FIELDS, PLACES

    return [
        "",
        "## Several accounts of one kind",
        "",
        "Each account is a provider with a name, credentials and a place of its own. So that they do not meet in one",
        f"place, the options {', '.join(f'`{place}`' for place in PLACES)} may hold what is filled in once,",
        "when it is given to `provider add` or `provider set`; what is stored and shown is the result. Without braces",
        "nothing changes.",
        "",
        "| written | stands for |",
        "|---|---|",
        *(f"| `{{{field}}}` | {meaning} |" for field, meaning in FIELDS.items()),
        "",
        "```console",
        "$ cdir provider add ada-at-home --kind s3 --set 'bucket=octopus-storage-at-{user}' …",
        "$ cdir provider add ada-at-work --kind s3 --set 'bucket=octopus-storage-at-{user}-{name}' …",
        "$ cdir provider add nas --kind sftp --set 'root=/srv/cdir/{user}/{host}' …",
        "```",
        "",
        "In `bucket` and `container` a value is brought to small letters, digits and hyphens, with `@` as `-at-`,",
        "which every service takes; elsewhere a slash in it becomes a hyphen. Anything else in braces is an error;",
        "`{{` and `}}` are braces.",
    ]


PAGES = {"docs/adapters.md": adapters_page, "docs/errors.md": errors_page, "docs/providers.md": providers_page}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when a page is not what the code says")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path, text = ROOT / name, page()
        if check and (not path.exists() or path.read_text() != text):
            stale.append(name)
        elif not check:
            path.write_text(text)
    if stale:
        sys.stderr.write(f"{', '.join(stale)}: not what the code says; run `make docs`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
