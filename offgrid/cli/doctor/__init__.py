"""``offgrid doctor``: looks at everything that a server needs, and says how to mend it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import click

from offgrid.cli.doctor.check import STATES, Check, State, worst
from offgrid.cli.help import Command
from offgrid.cli.options import chosen_options
from offgrid.cli.output import echo_wrapped

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command(cls=Command, short_help="Find what is wrong, and how to mend it.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@chosen_options(
    "models_dir", "model", "responses_file", "host", "port", "insecure", "threads", "gpu_layers",
    "peers", "peers_dir", "rpc_servers", "rpc_library",
)  # fmt: skip
def doctor(as_json: bool, **flags: Any) -> None:
    """Check memory, threads, disk, models, port, llama.cpp and more, and say how to mend each.

    It changes nothing. The exit status is 1 if there is a problem, with which offgrid serve cannot
    work, and 0 if there are only warnings.
    """
    from offgrid.cli.doctor.checks import run_checks

    checks = run_checks(flags)
    if as_json:
        listed = [check.as_json() for check in checks]
        click.echo(json.dumps({"state": worst(checks), "checks": listed}, indent=2))
    else:
        for check in checks:
            _print(check)
        counts = Counter(check.state for check in checks)
        click.echo(", ".join(_counted(state, counts[state]) for state in STATES if counts[state]))
    sys.exit(1 if worst(checks) == "problem" else 0)


def _counted(state: State, number: int) -> str:
    return f"{number} {state}" + ("s" if number > 1 and state != "ok" else "")


def _print(check: Check) -> None:
    mark = click.style(f"{check.state:<7}", fg=_COLOURS[check.state])
    echo_wrapped(f"{check.subject:<13} ", check.text, mark=f"{mark}  ", mark_width=9)
    if check.fix:
        echo_wrapped(" " * 14, f"fix: {check.fix}", mark=" " * 9, mark_width=9)
