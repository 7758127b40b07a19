"""Settings that change while a server runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import STARTER, request
from variants import few

from offgrid.config import Commit, Reloads, Settings, load_settings
from offgrid.errors import ConfigError
from offgrid.server import Server

DOCUMENT = Path(__file__).parent.parent / "docs" / "CONFIGURATION.md"
TEXT = "/v1/completions"
Write = Callable[[str], None]


class Part:
    """An object that takes one setting."""

    def __init__(self, settings: Settings) -> None:
        self.size = settings.batch_size

    def prepare(self, settings: Settings) -> Commit:
        """Refuse 1313."""
        if settings.batch_size == 1313:
            raise ConfigError("1313 brings bad luck")

        def commit() -> None:
            self.size = settings.batch_size

        return commit


def settings_with(text: str, folder: Path, **flags: object) -> Settings:
    """The settings of a configuration file with this text."""
    file = folder / "offgrid.toml"
    file.write_text(text)
    return load_settings(flags, environ={}, config_file=file)


def test_all_parts_change_or_none(tmp_path: Path) -> None:
    old = settings_with("", tmp_path)
    reloads = Reloads(old)
    first, second = Part(old), Part(old)
    for part in (first, second):
        reloads.add(("batch_size",), part.prepare)
    reloads.add(("keep_alive",), lambda settings: lambda: None)
    done = reloads.reload(settings_with("batch_size = 64\nport = 1", tmp_path))
    assert (done.changed, done.waiting) == (("batch_size",), ("port",))
    assert str(done) == "changed: batch_size; needs a restart: port"
    assert first.size == second.size == reloads.settings.batch_size == 64
    assert reloads.settings.port == old.port
    reloads.add((), lambda settings: pytest.fail("not reached"))
    with pytest.raises(ConfigError, match="bad luck"):
        reloads.reload(settings_with("batch_size = 1313\nkeep_alive = 7", tmp_path))
    assert first.size == reloads.settings.batch_size == 64
    assert reloads.settings.keep_alive == old.keep_alive


def test_a_part_sees_only_settings_that_are_in_force(tmp_path: Path) -> None:
    """Also where a value comes from stays with the value."""
    old = settings_with(f"models_dir = '{tmp_path}'\nthreads = 2", tmp_path)
    reloads = Reloads(old)
    seen: list[Settings] = []

    def prepare(settings: Settings) -> Commit:
        seen.append(settings)
        return lambda: None

    reloads.add(("threads",), prepare)
    done = reloads.reload(settings_with("port = 5\nthreads = 3", tmp_path))
    assert str(done) == "changed: threads; needs a restart: port, models_dir"
    assert (seen[0].threads, seen[0].port) == (3, old.port)
    assert seen[0].models_dir == tmp_path
    assert seen[0].models_dir_source == old.models_dir_source
    assert seen[0].given == {"models_dir", "threads"}


def test_more_slots_than_threads_need_a_restart(tmp_path: Path) -> None:
    """The number of threads was chosen for the largest number of slots at start."""
    old = settings_with("parallel = 2\n[models.a]\nparallel = 2\nthreads = 1", tmp_path)
    reloads = Reloads(old)
    reloads.add(("models",), lambda settings: lambda: None)
    more = "parallel = 2\n[models.a]\nparallel = 9\nthreads = 7\n[models.b]\nparallel = 1"
    done = reloads.reload(settings_with(more, tmp_path))
    assert done.waiting == ('parallel in [models."id"]',)
    a, b = reloads.settings.models
    assert (a.parallel, a.threads, b.parallel) == (2, 7, 1)


def test_nothing_has_changed(tmp_path: Path) -> None:
    reloads = Reloads(settings_with("", tmp_path))
    assert str(reloads.reload(settings_with("", tmp_path))) == "no setting has changed"


# --- a server -------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration file of the server."""
    path = tmp_path / "offgrid.toml"
    path.write_text('allowed_hosts = ["old.example"]\n')
    return path


@pytest.fixture
def server(tmp_path: Path, file: Path) -> Iterator[Server]:
    """A server that reads a file again."""
    flags = {"port": 0, "responses_file": tmp_path / "responses", "threads": 1, "model": STARTER}

    def read() -> Settings:
        return load_settings(flags, environ={}, config_file=file)

    server = Server(read(), read)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def status_of(server: Server, host: str) -> int:
    """The status of a request to a name of this server."""
    return request(server.url, "GET", "/v1/models", headers={"Host": host}).status


def origin_of(server: Server, origin: str) -> tuple[str | None, ...]:
    """Whether pages of an origin may read answers, and errors that are sent before them."""
    too_large = {"Origin": origin, "Content-Length": str(1 << 40)}
    answers = (
        request(server.url, "GET", "/v1/models", headers={"Origin": origin}),
        request(server.url, "POST", TEXT, headers=too_large),
    )
    return tuple(answer.headers.get("access-control-allow-origin") for answer in answers)


def test_a_server_takes_new_settings(server: Server, file: Path) -> None:
    """It goes on with the same worker."""
    server.pool.engine("")
    (worker,) = [client.pid for client in server.pool.loaded()]
    page = "http://page.example"
    assert (status_of(server, "old.example"), status_of(server, "new.example")) == (200, 403)
    assert origin_of(server, page) == (None, None)
    file.write_text(
        'allowed_hosts = ["new.example"]\n'
        f'cors_origins = ["{page}"]\n'
        'unknown_fields = "ignore"\n'
        'model_aliases = { captain = "offgrid-starter" }\n'
        "stall_timeout = 7\nqueue_timeout = 3\ndrain_timeout = 1\n"
        "keep_alive = 99\nmax_responses = 0\n"
    )
    body = {"model": "captain", "prompt": "Once", "max_tokens": 1, "no_such_field": 1}
    assert request(server.url, "POST", TEXT, body).status == 400
    server.reload()
    assert (status_of(server, "old.example"), status_of(server, "new.example")) == (403, 200)
    assert origin_of(server, page) == (page, page)
    assert request(server.url, "POST", TEXT, body).status == 200
    (client,) = server.pool.loaded()
    assert client.pid == worker
    assert (client.queue_timeout, client.supervisor.watchdog.stall.limit) == (3, 7)
    assert server.pool.keep_alive(server.catalogue.get("captain")) == 99
    assert not server.responses.enabled


@pytest.mark.slow
def test_a_model_with_new_settings_is_loaded_again(server: Server, file: Path) -> None:
    """Its next request gets them; requests that run are finished before."""
    server.pool.engine("")
    assert server.pool.engine("").info.n_ctx > 512
    file.write_text('[models."offgrid-starter"]\nctx_size = 512\naliases = ["tiny"]\n')
    server.reload()
    assert server.pool.engine("tiny").info.n_ctx == 512


def test_a_template_that_was_edited(server: Server, file: Path) -> None:
    """The setting is the same, the file that it names is not."""
    template = file.with_name("chat.jinja")
    template.write_text("{{ messages[0].content }}")
    file.write_text(f"chat_template = '{template}'")
    server.reload()
    assert server.catalogue.get("").template == "{{ messages[0].content }}"
    template.write_text("{{ messages[0].role }}")
    server.reload()
    assert server.catalogue.get("").template == "{{ messages[0].role }}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "told"),
    few(
        2,
        [
            ("port = ", "offgrid.toml: "),
            ("allowed_hosts = 7", "offgrid.toml: allowed_hosts: "),
            ("no_such_setting = 1", "unknown setting no_such_setting"),
            ("queue_size = 1024\nparallel = 256\nmax_models = 64", "allows"),
            ('chat_template = "/no/such/file"', "/no/such/file"),
            ('[models."offgrid-starter"]\nsampling = { temperature = -1 }', "temperature"),
            ("[models.nobody]\nctx_size = 512", "nobody"),
        ],
    ),
)
def test_a_bad_file_changes_nothing(
    server: Server, file: Path, text: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = server.reloads.settings
    file.write_text(f'allowed_hosts = ["new.example"]\n{text}' if "hosts" not in text else text)
    server.reload()
    (line,) = [line for line in caplog.messages if "SIGHUP" in line]
    assert "the settings stay as they were" in line
    assert told in line
    assert server.reloads.settings is before
    assert (status_of(server, "old.example"), status_of(server, "new.example")) == (200, 403)


def test_a_file_that_is_gone(server: Server, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.unlink()
    server.reload()
    assert str(file) in caplog.text
    assert status_of(server, "old.example") == 200


def test_a_server_that_ends_reads_nothing(server: Server, file: Path) -> None:
    file.write_text('allowed_hosts = ["new.example"]\n')
    server._draining = True
    server.reload()
    assert status_of(server, "new.example") == 403


def test_the_document_names_the_settings_that_can_change(server: Server) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split("## Changing settings while the server runs")[1].split("\n## ")[0]
    named = {name for name in re.findall(r"`([a-z_]+)`", section)}
    named |= {"models"} if '`[models."id"]`' in section else set()
    assert named - {"log_level"} == server.reloads.live
