"""``offgrid doctor``: looks at everything that a server needs, and says how to mend it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import click

from offgrid.cli.doctor import files, machine, network
from offgrid.cli.doctor.check import STATES, Check, State, worst
from offgrid.cli.help import Command
from offgrid.cli.options import chosen_options, resolved_settings
from offgrid.cli.output import echo_wrapped
from offgrid.config import Resolved, resolve
from offgrid.engine.build import Build
from offgrid.engine.client.about import BuildUnknown, ask_build
from offgrid.engine.client.budget import Budget, budget_limit
from offgrid.engine.client.fit import Fit
from offgrid.engine.client.roster import candidate_of
from offgrid.errors import OffgridError
from offgrid.store.catalogue import Catalogue

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command(cls=Command, short_help="Find what is wrong, and how to mend it.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@chosen_options(
    "models_dir", "model", "responses_file", "host", "port", "allow_remote", "threads", "gpu_layers"
)
def doctor(as_json: bool, **flags: Any) -> None:
    """Check memory, threads, disk, models, port, llama.cpp and more, and say how to mend each.

    It changes nothing. The exit status is 1 if there is a problem, with which offgrid serve cannot
    work, and 0 if there are only warnings.
    """
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


def run_checks(flags: dict[str, Any]) -> list[Check]:
    """Run all checks with the settings of flags, environment and file. If these are wrong, the
    other checks use the defaults."""
    try:
        resolved = resolved_settings(flags)
        checks = [files.check_configuration(resolved)]
    except OffgridError as ex:
        resolved = resolve(environ={}, config_file="")
        fix = "correct it; --no-config ignores the file. The checks below use the defaults"
        checks = [Check("configuration", "problem", str(ex), fix)]
    settings = resolved.settings
    models, fit, default = _models(resolved)
    build, llama = _llama()
    checks += [*models, files.check_disk(settings), files.check_permissions(resolved)]
    checks += [files.check_leftovers(settings), machine.check_memory(fit, default)]
    checks += [machine.check_threads(settings), llama]
    if build is not None:
        checks += [machine.check_processor(build), machine.check_gpu(settings, build)]
        checks += [machine.check_rpc(build)]
    return [*checks, network.check_port(settings), machine.check_clock()]


def _models(resolved: Resolved) -> tuple[list[Check], Fit | None, str | None]:
    """Check the models; return also how the default model would be loaded, and its id."""
    try:
        catalogue = Catalogue(resolved.settings)
    except OffgridError as ex:
        fix = "'offgrid list' names the models; 'offgrid get smollm2-135m' fetches one"
        return [Check("models", "problem", str(ex), fix)], None, None
    check = files.check_models(resolved.settings, catalogue)
    default = catalogue.default
    if default is None or check.state == "problem":
        return [check], None, default
    entry = catalogue.get(default)
    candidate = candidate_of(resolved.settings, entry, catalogue.describe(entry))
    return [check], Budget(budget_limit(resolved.settings)).preview(candidate), default


def _llama() -> tuple[Build | None, Check]:
    try:
        build = ask_build()
    except BuildUnknown as ex:
        reason = "it was built for another processor; " if ex.illegal else ""
        return None, Check("llama.cpp", "problem", f"{reason}{ex}", machine.REBUILD)
    return build, Check("llama.cpp", "ok", f"llama-cpp-python {build.binding}, ggml {build.ggml}")


def _counted(state: State, number: int) -> str:
    return f"{number} {state}" + ("s" if number > 1 and state != "ok" else "")


def _print(check: Check) -> None:
    mark = click.style(f"{check.state:<7}", fg=_COLOURS[check.state])
    echo_wrapped(f"{check.subject:<13} ", check.text, mark=f"{mark}  ", mark_width=9)
    if check.fix:
        echo_wrapped(" " * 14, f"fix: {check.fix}", mark=" " * 9, mark_width=9)
