"""All checks of ``offgrid doctor``, in their order."""

from __future__ import annotations

from typing import Any

from offgrid.cli.doctor import files, machine, network, rpc
from offgrid.cli.doctor.check import Check
from offgrid.cli.doctor.peers import check_peers
from offgrid.cli.options import resolved_settings
from offgrid.config import Resolved, resolve
from offgrid.engine.build import Build
from offgrid.engine.client.about import BuildUnknown, ask_build
from offgrid.engine.client.budget import Budget, budget_limit
from offgrid.engine.client.fit import Fit
from offgrid.engine.client.roster import candidate_of
from offgrid.errors import OffgridError
from offgrid.store.catalogue import Catalogue


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
        checks += [rpc.check_rpc(settings, build)]
    checks += [network.check_port(settings), check_peers(settings)]
    return [*checks, machine.check_clock()]


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
