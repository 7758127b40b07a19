"""``offgrid version``."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import click
import msgspec

from offgrid import __version__
from offgrid.cli.help import Command
from offgrid.cli.options import fail
from offgrid.cli.output import echo_wrapped
from offgrid.engine.client.about import BuildUnknown, ask_build


@click.command(cls=Command, short_help="Show the versions of OffGrid, llama.cpp and Python.")
@click.option("--json", "as_json", is_flag=True, help="Print the versions as JSON.")
def version(as_json: bool) -> None:
    """Show the versions of OffGrid, llama.cpp and Python, and what llama.cpp was built for.

    The exit status is 1 if llama.cpp cannot be used on this machine.
    """
    python = f"{platform.python_implementation()} {platform.python_version()}"
    known: dict[str, Any] = {
        "offgrid": __version__, "python": python, "executable": sys.executable,
        "platform": platform.platform(), "llama_cpp": None,
    }  # fmt: skip
    problem = None
    try:
        build = ask_build()
        known["llama_cpp"] = msgspec.to_builtins(build)
    except BuildUnknown as ex:
        problem = f"llama.cpp cannot be used: {ex}; 'offgrid doctor' says more"
    if as_json:
        click.echo(json.dumps(known, indent=2))
    else:
        _line("offgrid", __version__)
        _line("python", f"{python} ({sys.executable})")
        _line("platform", known["platform"])
        if problem is None:
            _line("llama.cpp", f"llama-cpp-python {build.binding}, ggml {build.ggml or 'unknown'}")
            _line("features", " ".join(build.features))
            _line("sampler", build.sampler)
            _line("devices", ", ".join(f"{d.name} ({d.description})" for d in build.devices))
            _line("gpu", _yes(build.gpu))
            _line("rpc", _yes(build.rpc))
    if problem is not None:
        fail(problem, 1)


def _line(name: str, text: str) -> None:
    echo_wrapped(f"{name:<10} ", text)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
