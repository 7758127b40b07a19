"""``offgrid launch``."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import click

from offgrid.cli.help import Command
from offgrid.cli.options import api_key_option, config_options, fail
from offgrid.cli.talk.options import ca_option, server_of, status_of
from offgrid.cli.talk.remote import Remote, ServerError
from offgrid.config import API_KEY

_KEY = "offgrid"
"""The name of the provider; and the key if none is given, because programs insist on one."""


@dataclass(frozen=True)
class Plan:
    """How a program is started.

    Attributes:
        environ: variables that are set in addition to the environment.
        arguments: arguments before those of the user.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A program that can use the server.

    Attributes:
        title: its name in messages.
        command: the command that starts it.
        install: how to install it.
        needs: the path of the endpoint that it uses.
        context: tokens of context below which its first requests hardly fit.
        plan: makes the plan of the server's address, the model, its context, 0 if unknown, and the
            key.
    """

    title: str
    command: str
    install: str
    needs: str
    context: int
    plan: Callable[[str, str, int, str], Plan]


def _claude(url: str, model: str, context: int, key: str) -> Plan:
    environ = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": key,
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return Plan(environ)


def _codex(url: str, model: str, context: int, key: str) -> Plan:
    values: dict[str, Any] = {
        "model_provider": _KEY,
        f"model_providers.{_KEY}.name": "OffGrid",
        f"model_providers.{_KEY}.base_url": f"{url}/v1",
        f"model_providers.{_KEY}.wire_api": "responses",
    }
    if key != _KEY:
        values[f"model_providers.{_KEY}.env_key"] = API_KEY
    if context:
        values["model_context_window"] = context
    # The values are TOML, whose texts may be written as in JSON.
    pairs = [f"{name}={json.dumps(value)}" for name, value in values.items()]
    options = [part for pair in pairs for part in ("-c", pair)]
    return Plan({} if key == _KEY else {API_KEY: key}, ("-m", model, *options))


def _opencode(url: str, model: str, context: int, key: str) -> Plan:
    described: dict[str, Any] = {"name": model}
    if context:
        described["limit"] = {"context": context, "output": max(1, context // 4)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "OffGrid",
        "options": {"baseURL": f"{url}/v1", "apiKey": key},
        "models": {model: described},
    }
    content = {"provider": {_KEY: provider}, "model": f"{_KEY}/{model}", "autoupdate": False}
    return Plan({"OPENCODE_CONFIG_CONTENT": json.dumps(content)})


def _aider(url: str, model: str, context: int, key: str) -> Plan:
    environ = {
        "OPENAI_API_BASE": f"{url}/v1",
        "OPENAI_API_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    # Without these, it asks the network for updates and sends statistics.
    quiet = ("--no-show-model-warnings", "--no-check-update", "--analytics-disable")
    return Plan(environ, ("--model", f"openai/{model}", *quiet))


PROGRAMS = {
    "claude": Program("Claude Code", "claude", "npm install -g @anthropic-ai/claude-code",
                      "/v1/messages", 32_768, _claude),
    "codex": Program("Codex CLI", "codex", "npm install -g @openai/codex",
                     "/v1/responses", 16_384, _codex),
    "opencode": Program("opencode", "opencode", "npm install -g opencode-ai",
                        "/v1/chat/completions", 16_384, _opencode),
    "aider": Program("aider", "aider", "pip install aider-install && aider-install",
                     "/v1/chat/completions", 8_192, _aider),
}  # fmt: skip


@click.command(cls=Command, short_help="Start a coding agent that uses the running server.")
@click.argument("program", type=click.Choice([*PROGRAMS]))
@click.option("--model", "-m", metavar="MODEL", help="The model; absent for the server's only one.")
@click.option("--url", metavar="URL", help="The server's address, instead of the configured one.")
@ca_option
@click.option("--print", "only_print", is_flag=True, help="Start nothing; print the command.")
@api_key_option
@config_options
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch(
    program: str,
    model: str | None,
    url: str | None,
    ca: str | None,
    only_print: bool,
    api_key: str | None,
    arguments: tuple[str, ...],
    **flags: Any,
) -> None:
    """Start a coding agent that uses the models of the running server.

    PROGRAM is claude, codex, opencode or aider. Its environment and arguments are set for this
    start only: no file is changed. ARGUMENTS after -- go to the program.

    The exit status is that of the program; 1 if no server answers, or it lacks the API that the
    program needs; 2 for wrong arguments or an unknown model; 127 if the program is not installed.
    """
    chosen = PROGRAMS[program]
    try:
        remote = server_of(url, flags, api_key, ca)
        address = remote.url
        if address.startswith("unix:"):
            fail(f"{chosen.title} cannot use a Unix socket; give another address with --url", 2)
        name, context = _ask_server(remote, chosen, model)
    except ServerError as ex:
        fail(str(ex), status_of(ex))
    if 0 < context < chosen.context:
        click.echo(
            f"offgrid: {name} has a context of {context:,} tokens, and {chosen.title} needs about "
            f"{chosen.context:,}; start the server with --ctx-size 32768",
            err=True,
        )
    plan = chosen.plan(address, name, context, api_key or _KEY)
    command = [chosen.command, *plan.arguments, *arguments]
    if only_print:
        for variable, value in plan.environ.items():
            click.echo(f"export {variable}={shlex.quote(value)}")
        click.echo(shlex.join(command))
        return
    _start(chosen, command, {**os.environ, **plan.environ})


def _ask_server(remote: Remote, program: Program, model: str | None) -> tuple[str, int]:
    """Return the id of the model and its context in tokens, 0 if that is not known.

    Raises:
        ServerError: no server answers, or it lacks the model or the API.
    """
    try:
        paths = remote.get("/openapi.json").get("paths", {})
        if program.needs not in paths:
            raise ServerError(
                f"{program.title} needs the API {program.needs}, which this server does not have"
            )
        name = remote.find(model) if model else _only(remote)
        return name, _context(remote, name)
    finally:
        remote.close()


def _only(remote: Remote) -> str:
    """Return the only model."""
    ids = remote.models()
    if len(ids) != 1:
        raise ServerError(f"choose one with --model: {', '.join(ids) or 'the server has no model'}")
    return ids[0]


def _context(remote: Remote, name: str) -> int:
    """Return the context of a model, if it is loaded: asking for it loads nothing."""
    try:
        loaded = remote.get("/v1/loaded").get("data", [])
    except ServerError as ex:
        if ex.code != "missing_scope":  # a key for inference only may not ask
            raise
        return 0
    contexts = [model.get("ctx_size") for model in loaded if model.get("id") == name]
    return int(contexts[0] or 0) if contexts else 0


def _start(program: Program, command: list[str], environ: dict[str, str]) -> NoReturn:
    """Become the program, or on Windows wait for it."""
    path = shutil.which(program.command)
    if path is None:
        fail(f"{program.title} is not installed; with a network: {program.install}", 127)
    if sys.platform == "win32":
        sys.exit(subprocess.run([path, *command[1:]], env=environ).returncode)
    sys.stdout.flush()
    os.execve(path, command, environ)
