"""The ``offgrid`` command: one verb per file."""

from __future__ import annotations

import io
import sys

import click

from offgrid import __version__
from offgrid.cli.bench import bench
from offgrid.cli.complete import complete
from offgrid.cli.completion import completion
from offgrid.cli.config import config
from offgrid.cli.doctor import doctor
from offgrid.cli.export import export
from offgrid.cli.forget import forget
from offgrid.cli.get import get
from offgrid.cli.help import CONTEXT, Root
from offgrid.cli.import_ import import_
from offgrid.cli.launch import launch
from offgrid.cli.models import info, models
from offgrid.cli.ps import ps
from offgrid.cli.run import run
from offgrid.cli.serve import serve
from offgrid.cli.verify import remove, verify
from offgrid.cli.version import version


@click.group(cls=Root, context_settings=dict(CONTEXT))
@click.version_option(__version__, "-V", "--version", prog_name="offgrid")
def main() -> None:
    """Serve GGUF models through the OpenAI API on a machine without a network.

    Start with 'offgrid serve'. 'offgrid COMMAND --help' explains each command.
    """
    # Do not fail on a file name that the terminal's encoding cannot show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


main.sections = {
    "Serve and chat": ("serve", "run", "complete", "launch", "ps"),
    "Models": ("list", "info", "get", "import", "export", "verify", "remove"),
    "This machine": ("doctor", "bench", "config", "forget", "completion", "version"),
}
main.add_command(serve)
main.add_command(models, name="list")
main.add_command(bench)
main.add_command(completion)
main.add_command(config)
main.add_command(doctor)
main.add_command(export)
main.add_command(forget)
main.add_command(get)
main.add_command(import_)
main.add_command(remove)
main.add_command(verify)
main.add_command(info)
main.add_command(version)
main.add_command(run)
main.add_command(complete)
main.add_command(ps)
main.add_command(launch)
