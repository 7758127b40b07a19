"""What the network says about machines: false, malformed, and too much."""

from __future__ import annotations

import pytest

from offgrid.peers.found import MAX_FOUND, MAX_PLACES, MAX_RECORDS, FoundMachines, is_usable

OWN, ID = "0" * 16, "0123456789abcdef"
TEXT = {b"id": ID.encode(), b"port": b"11612", b"v": b"1.2.3"}


@pytest.fixture
def found() -> FoundMachines:
    return FoundMachines(OWN, {ID}.__contains__)


def test_a_record_names_a_machine(found: FoundMachines) -> None:
    assert found.hear("a", TEXT, ["10.0.0.2", "fe80::1%eth0"], "galley") == ID
    (machine,) = found.all()
    assert (machine.id, machine.name, machine.version) == (ID, "galley", "1.2.3")
    assert machine.places == found.places(ID)
    assert machine.places == (("10.0.0.2", 11612), ("fe80::1%eth0", 11612))
    found.forget("b")
    assert found.all() == [machine]
    found.forget("a")
    assert found.all() == []
    assert found.places(ID) == ()


@pytest.mark.parametrize(
    "change",
    [
        {b"id": None}, {b"id": b""}, {b"id": b"0123"}, {b"id": b"0123456789ABCDEF"},
        {b"id": b"0123456789abcdef\n"}, {b"id": b"\xff" * 16}, {b"id": OWN.encode()},
        {b"port": None}, {b"port": b"0"}, {b"port": b"65536"}, {b"port": b"-1"}, {b"port": b"x"},
        {b"port": b"1" * 5000}, {b"port": "١٢".encode()},
    ],
)  # fmt: skip
def test_a_record_that_is_not_valid_says_nothing(
    found: FoundMachines, change: dict[bytes, bytes | None]
) -> None:
    assert found.hear("a", {**TEXT, **change}, ["10.0.0.2"]) is None
    assert found.all() == []


@pytest.mark.parametrize("version", [None, b"", b"1" * 33, b"\xff"])
def test_a_version_may_be_missing(found: FoundMachines, version: bytes | None) -> None:
    found.hear("a", {**TEXT, b"v": version}, ["10.0.0.2"])
    assert found.all()[0].version is None


def test_names_and_versions_disturb_no_terminal(found: FoundMachines) -> None:
    found.hear("a", {**TEXT, b"v": b"1\x1b[2J"}, ["10.0.0.2"], "x\x1b[2J\n" * 50)
    (machine,) = found.all()
    assert machine.version == "12J"
    assert machine.name.isprintable()
    assert len(machine.name) <= 63


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.251", "255.255.255.255", "x", ""]
)
def test_addresses_of_no_other_machine_are_left_out(found: FoundMachines, address: str) -> None:
    assert not is_usable(address)
    assert found.hear("a", TEXT, [address]) is None


def test_this_machine_itself_counts_where_it_is_all_there_is() -> None:
    found = FoundMachines(OWN, lambda id: False, loopback=True)
    assert found.hear("a", TEXT, ["127.0.0.1"]) == ID


def test_a_false_record_adds_places_and_does_not_hide_the_true_ones(found: FoundMachines) -> None:
    found.hear("true", TEXT, ["10.0.0.2"])
    found.hear("false", {**TEXT, b"port": b"1"}, ["10.0.0.66"])
    assert found.places(ID) == (("10.0.0.66", 1), ("10.0.0.2", 11612))
    found.hear("true", TEXT, ["10.0.0.2"])  # it announces itself again
    assert found.places(ID)[0] == ("10.0.0.2", 11612)
    for number in range(100):
        found.hear("false", {**TEXT, b"port": b"1"}, [f"10.0.1.{number}"] * 50)
    assert found.places(ID) == (("10.0.1.99", 1), ("10.0.0.2", 11612))


def test_a_false_record_with_many_addresses_hides_no_true_one(found: FoundMachines) -> None:
    true = ["10.0.0.2", "10.0.0.3"]
    found.hear("true", TEXT, true, "galley")
    found.hear("false", {**TEXT, b"port": b"1"}, [f"10.0.1.{number}" for number in range(50)])
    places = found.places(ID)
    assert [places.index((one, 11612)) for one in true] == [1, 3]  # in turn
    assert len(places) == MAX_PLACES + len(true)


def test_the_end_of_a_false_record_ends_no_true_one(found: FoundMachines) -> None:
    found.hear("true", TEXT, ["10.0.0.2"], "galley")
    before = found.all()
    found.hear("false", TEXT, ["10.0.0.66", "10.0.0.2"], "other")
    assert found.all()[0].name == "other"
    found.forget("false")
    assert found.all() == before
    found.forget("true")
    assert found.all() == []


def test_many_false_records_do_not_drive_out_the_true_one(found: FoundMachines) -> None:
    found.hear("true", TEXT, ["10.0.0.2"])
    for number in range(100):
        found.hear(f"false {number}", TEXT, [f"10.0.1.{number}"])
    assert len(found.places(ID)) == MAX_RECORDS == len(found._records)
    assert found.places(ID)[0] == ("10.0.1.99", 11612)
    assert found.places(ID)[-1] == ("10.0.0.2", 11612)


def test_a_record_with_another_id_is_about_another_machine(found: FoundMachines) -> None:
    found.hear("a", TEXT, ["10.0.0.2"])
    found.hear("a", {**TEXT, b"id": b"f" * 16}, ["10.0.0.2"])
    assert [machine.id for machine in found.all()] == ["f" * 16]
    found.forget("a")
    assert found.all() == []


@pytest.mark.parametrize("records", [2000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_a_flood_of_machines_drives_no_peer_out(found: FoundMachines, records: int) -> None:
    found.hear("true", TEXT, ["10.0.0.2"])
    for number in range(records):
        text = {b"id": b"f%015x" % number, b"port": b"1", b"v": b"1"}
        found.hear(f"record {number}", text, ["10.0.0.66"])
    machines = found.all()
    assert len(machines) == MAX_FOUND == len(found._records)
    assert machines[0].id == ID
    for number in range(records):
        found.forget(f"record {number}")
    assert [machine.id for machine in found.all()] == [ID]


def test_a_machine_in_another_network_knows_none(found: FoundMachines) -> None:
    found.hear("a", TEXT, ["10.0.0.2"])
    found.forget_all()
    assert found.all() == []
    found.hear("a", TEXT, ["10.0.0.3"])
    assert found.places(ID) == (("10.0.0.3", 11612),)
