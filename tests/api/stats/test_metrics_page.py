"""docs/METRICS.md, the dashboard and the alert rules name exactly what the server returns."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import STARTER, eventually, request

from offgrid.api.http import request_log
from offgrid.api.stats import shapes
from offgrid.api.stats.metrics import Metrics
from offgrid.api.stats.source import Source
from offgrid.caller import Caller
from offgrid.record import Outcome, Record
from offgrid.server import Server
from offgrid.stats.collected import Stats
from offgrid.stats.totals import TotalsFile

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "METRICS.md").read_text(encoding="utf-8")
SUFFIXES = r"(_bucket|_count|_sum)$"


def listed() -> dict[str, tuple[str, set[str]]]:
    """Metric -> its type and labels, as the tables of the page say."""
    metrics = {}
    for part, more in (("With vLLM's names", {"model_name", "engine"}),
                       ("With OffGrid's names", set())):  # fmt: skip
        text = PAGE.split(f"### {part}\n")[1].split("\n### ")[0]
        for name, kind, labels in re.findall(
            r"^\| `([\w:]+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE
        ):
            metrics[name] = (kind, set(re.findall(r"`(\w+)`", labels)) | more)
    return metrics


@pytest.fixture(scope="module")
def returned(server: Server) -> dict[str, tuple[str, set[str]]]:
    """The same of a server that has answered a request with a key."""
    assert request(server.url, "POST", "/v1/completions",
                   {"model": STARTER, "prompt": "Once", "max_tokens": 3}).status == 200  # fmt: skip
    keeper = server.observation.keeper
    eventually(lambda: keeper.machine is not None, "the machine was looked at")
    keeper.look()
    engine = server.pool.engine(STARTER)
    eventually(lambda: engine.latest is not None, "the worker has answered a ping")
    stats = Stats(TotalsFile(None))
    record = Record("r", "POST", "/x", caller=Caller("k", "clinic", has_key=True), status=200)
    stats.note(record, Outcome(STARTER, 1))
    stats.ended(record)
    source = Source(stats, keeper, server.pool, server.observation.readiness)
    text = Metrics(source, with_keys=True).text("")[0].decode()
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    return found


def test_the_page_lists_every_metric(returned: dict[str, tuple[str, set[str]]]) -> None:
    told = listed()
    assert told.keys() == returned.keys()
    for name, (kind, labels) in returned.items():
        # Without a GPU, or where the system hides it, a metric has no series and so no labels.
        assert (kind, labels or told[name][1]) == told[name], name


def used_in(expression: str) -> set[str]:
    """The metrics in an expression of Prometheus, by the names that the page lists."""
    names = set(re.findall(r"\b(?:vllm:|offgrid_)\w+", expression))
    return {re.sub(SUFFIXES, "", name) for name in names}


def test_the_dashboard_uses_metrics_that_exist() -> None:
    dashboard = json.loads((DOCS / "grafana" / "offgrid.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 20
    for variable in dashboard["templating"]["list"][1:]:
        expressions.append(variable["query"]["query"])
    metrics = listed()
    for expression in expressions:
        assert used_in(expression), expression
        assert used_in(expression) <= metrics.keys(), expression
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            known = {label for name in used_in(expression) for label in metrics[name][1]} | {"le"}
            assert set(re.split(r", *", labels)) <= known, expression
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len({(x, y) for x, y, _, _ in places}) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_the_alerts_use_metrics_that_exist() -> None:
    text = (DOCS / "grafana" / "alerts.yml").read_text(encoding="utf-8")
    expressions = re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)
    assert len(expressions) == text.count("- alert:") > 5
    for expression in expressions:
        assert used_in(expression), expression
        assert used_in(expression) <= listed().keys(), expression


def structs(kind: Any) -> set[type[msgspec.Struct]]:
    """A struct and all structs in its fields."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        return {kind}.union(*(structs(field.type) for field in fields))
    if get_origin(kind) is None:
        return set()
    return set().union(*(structs(argument) for argument in get_args(kind)))


def test_the_page_lists_every_field() -> None:
    text = PAGE.split("## /v1/stats\n")[1].split("\n## ")[0]
    whole, series, slots = re.split(r"^### .*\n", text, flags=re.MULTILINE)
    for part, kind in (
        (whole, shapes.StatsObject), (series, shapes.StatsSeries), (slots, shapes.StatsSlot),
    ):  # fmt: skip
        told = set(re.findall(r"`([\w.]+)`", part))
        fields = {name for struct in structs(kind) for name in struct.__struct_fields__}
        assert len(fields) >= 10
        assert fields <= told, kind


def test_the_page_lists_every_reason() -> None:
    text = PAGE.split("## Ready\n")[1].split("\n## ")[0]
    reasons = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert reasons == ["reason", *get_args(shapes.ReadyReason)]


def test_the_page_lists_every_part_of_a_log_line() -> None:
    outcome = Outcome("m", 5, 2, 9, 8, first_token=0.1, decode=1.0)
    seen: set[str] = set()
    for caller in (Caller("k", "clinic", has_key=True), Caller("10.0.0.7", address="10.0.0.7")):
        record = Record(
            "r", "POST", "/x", caller=caller, status=400, code="c", began=0.0, peer="galley"
        )
        record.outcomes.append(outcome)
        seen |= request_log.fields_of(record).keys()
    text = PAGE.split("## Log\n")[1]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told == seen - {"method", "path", "status", "seconds"}
