"""The unit file: what it allows, and that systemd accepts it."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offgrid.config import load_settings
from offgrid.errors import ConfigError
from offgrid.service.plist import plist_text
from offgrid.service.unit import MARK, Service, unit_text

COMMAND = (sys.executable, "-m", "offgrid", "serve")


def unit(*, settings: dict[str, Any] | None = None, **fields: Any) -> str:
    fields.setdefault("command", COMMAND)
    return unit_text(Service(settings=load_settings(settings or {}, environ={}), **fields))


def values(text: str, key: str) -> list[str]:
    """All values of a key, in order."""
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def value(text: str, key: str) -> str:
    (one,) = values(text, key)
    return one


def test_a_service_of_the_system() -> None:
    text = unit(system=True)
    assert text.startswith(MARK)
    assert value(text, "Type") == "notify"
    assert value(text, "DynamicUser") == "yes"
    assert value(text, "StateDirectory") == "offgrid"
    assert value(text, "CapabilityBoundingSet") == ""
    assert value(text, "ProtectSystem") == "strict"
    assert value(text, "PrivateDevices") == "yes"
    assert value(text, "UMask") == "0077"
    assert value(text, "LimitCORE") == "0"
    assert value(text, "OOMPolicy") == "continue"
    assert value(text, "WantedBy") == "multi-user.target"
    assert values(text, "MemoryMax") == values(text, "User") == values(text, "LimitMEMLOCK") == []
    # Its data is where systemd allows it to write anyway, not in the home of the administrator.
    assert values(text, "ReadWritePaths") == []


def test_options() -> None:
    text = unit(system=True, run_as="llm", memory_max="6G")
    assert value(text, "User") == "llm"
    assert values(text, "DynamicUser") == []
    assert value(text, "MemoryMax") == "6G"


def test_settings_that_matter(tmp_path: Path) -> None:
    text = unit(
        system=True,
        settings={
            "port": 80, "drain_timeout": 600, "gpu_layers": -1, "use_mlock": True,
            "models_dir": tmp_path / "models",
        },
    )  # fmt: skip
    assert value(text, "AmbientCapabilities") == "CAP_NET_BIND_SERVICE"
    assert value(text, "TimeoutStopSec") == "640"
    assert values(text, "PrivateDevices") == []
    assert value(text, "LimitMEMLOCK") == "infinity"
    assert value(text, "ReadWritePaths") == f"-{tmp_path / 'models'}"


def test_every_folder_that_the_server_writes_to_is_writable() -> None:
    """Identity and book of peers, and the Unix socket, can be anywhere."""
    settings = {"peers_dir": Path("/srv/peers"), "socket": "/srv/run/offgrid.sock"}
    for system in (True, False):
        writable = value(unit(system=system, settings=settings), "ReadWritePaths").split()
        assert {"-/srv/peers", "-/srv/run"} <= set(writable)
    passed_on = unit(system=True, settings={"socket": "fd:3"})
    assert values(passed_on, "ReadWritePaths") == []


def test_homes_are_hidden_unless_something_is_there() -> None:
    hidden = unit(system=True, command=("/opt/offgrid/bin/offgrid", "serve"))
    assert value(hidden, "ProtectHome") == "yes"
    shown = unit(system=True, command=("/home/ann/offgrid/bin/offgrid", "serve"))
    assert value(shown, "ProtectHome") == "read-only"
    config = unit(system=True, command=("/opt/offgrid",), config=Path("/home/ann/offgrid.toml"))
    assert value(config, "ProtectHome") == "read-only"
    for name in ("filter_file", "tls_cert", "chat_template"):
        read = unit(system=True, settings={name: "/home/ann/file"})
        assert value(read, "ProtectHome") == "read-only", name


def test_a_service_of_a_user(tmp_path: Path) -> None:
    file = tmp_path / "data" / "responses.sqlite3"
    settings = {"responses_file": file, "models_dir": tmp_path / "models"}
    text = unit(settings=settings)
    assert value(text, "WantedBy") == "default.target"
    assert values(text, "DynamicUser") == values(text, "StateDirectory") == []
    writable = value(text, "ReadWritePaths").split()
    assert f"-{tmp_path / 'data'}" in writable
    assert f"-{tmp_path / 'models'}" in writable
    few = unit(settings=settings, namespaces=False)
    assert values(few, "ProtectSystem") == values(few, "PrivateTmp") == []
    assert value(few, "NoNewPrivileges") == "yes"


ODD = "/opt/my 100% \"best\" $HOME\\x; 'it' programs"


def test_odd_names_stay_what_they_are(tmp_path: Path) -> None:
    text = unit(command=("/opt/my 100% $HOME/offgrid", "serve", "--config", ODD))
    escaped = ODD.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    assert value(text, "ExecStart") == f'"/opt/my 100%% $HOME/offgrid" serve --config "{escaped}"'
    with pytest.raises(ConfigError, match="install OffGrid in another folder than /opt/a'b"):
        unit(command=("/opt/a'b/offgrid", "serve"))
    for name in ("a\nExecStartPre=/bin/rm", "a\rb", "a\0b", "a\x7fb"):
        with pytest.raises(ConfigError, match="no unit file can contain; rename it"):
            unit(command=(name,))


analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def check(*arguments: str) -> str:
    ended = subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": os.environ["HOME"]},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@analyze
@pytest.mark.parametrize("system", [True, False], ids=["system", "user"])
def test_systemd_accepts_it(tmp_path: Path, system: bool) -> None:
    """A program with an odd name is found by that name."""
    folder = tmp_path / "my 100% programs for $HOME"
    folder.mkdir()
    program = folder / "offgrid"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    file = tmp_path / "offgrid.service"
    odd = {"models_dir": folder, "port": 443, "use_mlock": True}
    for text in (
        unit(system=system, command=(str(program), "serve", ODD), settings=odd, memory_max="80%"),
        unit(system=system),
    ):
        file.write_text(text)
        scope = ["--system"] if system else ["--user"]
        said = check("verify", *scope, "--man=no", str(file))
        assert "offgrid.service" not in said, said


@analyze
def test_systemd_rates_it_well(tmp_path: Path) -> None:
    """0 is the best, 10 the worst; a service without any of this has 9.6."""
    file = tmp_path / "offgrid.service"
    file.write_text(unit(system=True, command=("/bin/true",)))
    help_text = subprocess.run(["systemd-analyze", "--help"], capture_output=True, text=True).stdout
    if "--offline" not in help_text:
        pytest.skip("this systemd rates only services that run")
    said = check("security", "--offline=true", "--no-pager", str(file))
    rated = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert rated is not None, said
    assert float(rated[1]) < 2.5


def test_the_file_for_launchd() -> None:
    content = plistlib.loads(plist_text(["/a b/offgrid", "serve"], 30.0).encode())
    assert content["ProgramArguments"] == ["/a b/offgrid", "serve"]
    assert content["ExitTimeOut"] == 70
    assert content["Umask"] == 0o077
