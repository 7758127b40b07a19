"""Statistics of a server with keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from keyed import bearer, new_key
from prometheus_client.parser import text_string_to_metric_families
from support import STARTER, eventually, request

from offgrid.cli import main
from offgrid.server import Server

TEXT = "/v1/completions"


@pytest.mark.slow
def test_totals_of_keys(
    make_server: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """E19: names of keys are in the statistics and in the log, and their secrets nowhere."""
    file = tmp_path / "keys.sqlite3"
    secrets = {name: new_key(file, name)[1] for name in ("ward 3", "lab")}
    secrets["watch"] = new_key(file, "watch", "stats")[1]
    server = make_server(keys_file=file, metrics_keys=True)
    body = {"model": STARTER, "prompt": "Once", "max_tokens": 3}
    with caplog.at_level(logging.DEBUG, "offgrid"):
        for name, times in (("ward 3", 2), ("lab", 1)):
            for _ in range(times):
                answer = request(server.url, "POST", TEXT, body, bearer(secrets[name]))
                assert answer.status == 200
        assert request(server.url, "POST", TEXT, body, bearer("wrong")).status == 401
        stats = request(server.url, "GET", "/v1/stats", headers=bearer(secrets["watch"]))
        metrics = request(server.url, "GET", "/metrics", headers=bearer(secrets["watch"]))
    used = {
        key["name"]: (key["requests"], key["completion"]) for key in stats.json["total"]["keys"]
    }
    assert used == {"ward 3": (2, 6), "lab": (1, 3)}
    samples = {
        (sample.name, sample.labels["key"], sample.labels.get("kind")): sample.value
        for family in text_string_to_metric_families(metrics.body.decode())
        for sample in family.samples
        if "key" in sample.labels
    }
    assert samples["offgrid_key_requests_total", "ward 3", None] == 2
    assert samples["offgrid_key_tokens_total", "lab", "completion"] == 3
    for line in (' key="ward 3" in=', "POST /v1/completions 401"):
        eventually(lambda line=line: line in caplog.text, f"the log says {line}")
    for secret in secrets.values():
        assert secret.encode() not in stats.body + metrics.body
        assert secret not in caplog.text
    shown = CliRunner().invoke(
        main, ["stats", "--json", "--url", server.url],
        env={"OFFGRID_PORT": "0", "OFFGRID_API_KEY": secrets["watch"]},
    )  # fmt: skip
    assert json.loads(shown.stdout)["object"] == "stats"


def test_without_the_setting_keys_have_no_series(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "keys.sqlite3"
    secret = new_key(file, "all", "admin")[1]
    server = make_server(keys_file=file)
    assert request(server.url, "GET", "/v1/models", headers=bearer(secret)).status == 200
    text = request(server.url, "GET", "/metrics", headers=bearer(secret)).body.decode()
    assert "offgrid_key_" not in text
    assert "offgrid_requests_total" in text
