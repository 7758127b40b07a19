"""The exchange of a pairing: what it proves, and what happens to messages that are not as sent."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_certificates import odd_certificate
from pairings import Side, identity_of, wrong

from offgrid.errors import InvalidParameter, Overloaded, RequestError, StoreFailed
from offgrid.peers import pairing
from offgrid.peers.book import MAX_PEERS, Peer
from offgrid.peers.desk import (
    CODE_SECONDS,
    EXCHANGE_SECONDS,
    MAX_EXCHANGES,
    MAX_OF_ADDRESS,
)
from offgrid.peers.identity import Identity
from offgrid.peers.pairing import PairingClosed, PairingFailed

FIELDS = {
    "hello": ("version", "name", "certificate", "port", "spake"),
    "reply": ("version", "name", "certificate", "spake", "exchange"),
    "proof": ("exchange", "step", "mac", "signature"),
    "receipt": ("mac",),
}
quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def near(tmp_path: Path) -> Side:
    """Where the code is typed."""
    return Side(tmp_path / "near", "near")


@pytest.fixture
def far(tmp_path: Path) -> Side:
    """What shows the code."""
    return Side(tmp_path / "far", "far")


def other_hex(text: str) -> str:
    """The same with another last digit."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def test_both_sides_know_each_other(near: Side, far: Side) -> None:
    code, opened = far.desk.open()
    assert (opened.state, far.is_open) == ("open", True)
    assert opened.expires_at == far.times.wall + CODE_SECONDS
    initiator = near.initiator(far, code, port=7)
    assert not far.book.all()
    proof = initiator.prove(far.desk.answer(initiator.hello, "10.0.0.9"))
    assert not far.book.all()  # nothing is stored before the proof
    peer = initiator.finish(far.desk.confirm(proof, "10.0.0.9"))
    (stored,) = far.book.all()
    assert (stored.name, stored.addresses, stored.port) == ("near", ("10.0.0.9",), 7)
    assert stored.certificate == near.identity.certificate
    assert stored.paired_at == int(far.times.wall)
    assert (peer.name, peer.certificate) == ("far", far.identity.certificate)
    state = far.desk.state()
    assert (state.state, state.peer, state.expires_at) == ("paired", stored, None)
    assert not far.is_open


def test_a_code_is_valid_once(near: Side, far: Side, tmp_path: Path) -> None:
    code, _ = far.desk.open()
    near.try_code(far, code)
    with pytest.raises(PairingClosed):
        Side(tmp_path / "third", "third").try_code(far, code)


def test_a_wrong_code_stores_nothing_and_the_right_one_still_works(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    with pytest.raises(PairingFailed, match="code is wrong"):
        near.try_code(far, wrong(code))
    assert near.book.all() == far.book.all() == []
    near.try_code(far, code)
    assert near.knows(far)
    assert far.knows(near)


def test_a_code_expires(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    begun = near.initiator(far, code)
    far.times.go_on(CODE_SECONDS - 1)
    proof = begun.prove(far.desk.answer(begun.hello, "10.0.0.9"))
    far.times.go_on(1)
    assert not far.desk.is_open
    with pytest.raises(PairingClosed):
        far.desk.confirm(proof, "10.0.0.9")
    with pytest.raises(PairingClosed):
        near.try_code(far, code)
    assert far.desk.state().state == "expired"
    assert not far.is_open


def test_a_clock_that_is_set_back_makes_no_code_last_longer(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    far.times.go_on(CODE_SECONDS)
    far.times.wall -= 10 * CODE_SECONDS
    with pytest.raises(PairingClosed):
        near.try_code(far, code)


def test_a_closed_code_ends_its_exchanges(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    begun = near.initiator(far, code)
    proof = begun.prove(far.desk.answer(begun.hello, "10.0.0.9"))
    far.desk.close()
    far.desk.close()
    assert far.desk.state().state == "closed"
    far.desk.open()
    with pytest.raises(PairingClosed):
        far.desk.confirm(proof, "10.0.0.9")


def test_a_newer_code_replaces_the_older_one(near: Side, far: Side) -> None:
    code, first = far.desk.open()
    begun = near.initiator(far, code)
    proof = begun.prove(far.desk.answer(begun.hello, "10.0.0.9"))
    newer, second = far.desk.open()
    assert first.id != second.id
    with pytest.raises(PairingClosed):
        far.desk.confirm(proof, "10.0.0.9")
    near.try_code(far, newer)


def test_the_first_of_two_machines_gets_the_code(near: Side, far: Side, tmp_path: Path) -> None:
    third = Side(tmp_path / "third", "third")
    code, _ = far.desk.open()
    both = [side.initiator(far, code) for side in (near, third)]
    proofs = [one.prove(far.desk.answer(one.hello, "10.0.0.9")) for one in both]
    far.desk.confirm(proofs[1], "10.0.0.3")
    with pytest.raises(PairingClosed):
        far.desk.confirm(proofs[0], "10.0.0.2")
    assert [peer.name for peer in far.book.all()] == ["third"]
    assert far.desk._attempts.left == 5  # that was no wrong code


def test_unfinished_exchanges_are_few_and_end(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    begun = [near.initiator(far, code) for _ in range(MAX_EXCHANGES)]
    places = [f"10.0.0.{number // MAX_OF_ADDRESS}" for number in range(MAX_EXCHANGES)]
    proofs = [
        one.prove(far.desk.answer(one.hello, place))
        for one, place in zip(begun, places, strict=True)
    ]
    with pytest.raises(Overloaded):
        near.try_code(far, code)
    far.times.go_on(EXCHANGE_SECONDS)
    with pytest.raises(PairingClosed):
        far.desk.confirm(proofs[0], "10.0.0.9")
    near.try_code(far, code)


def test_one_address_keeps_no_other_from_pairing(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    for _ in range(MAX_OF_ADDRESS):
        far.desk.answer(near.initiator(far, code).hello, "10.0.0.3")
    with pytest.raises(Overloaded):
        far.desk.answer(near.initiator(far, code).hello, "10.0.0.3")
    near.try_code(far, code)


# --- messages that are not as sent ----------------------------------------------------------------


def changed(message: bytes, field: str, value: object) -> bytes:
    given = json.loads(message)
    assert field in given
    return json.dumps({**given, field: value}, separators=(",", ":")).encode()


def exchange(near: Side, far: Side, code: str, alter: Callable[[str, bytes], bytes]) -> None:
    """An exchange on a network that changes messages."""
    initiator = near.initiator(far, code)
    answer = far.desk.answer(alter("hello", initiator.hello), "10.0.0.9")
    proof = initiator.prove(alter("reply", answer))
    receipt = far.desk.confirm(alter("proof", proof), "10.0.0.9")
    near.book.add(initiator.finish(alter("receipt", receipt)))


def assert_refused(near: Side, far: Side, alter: Callable[[str, bytes], bytes], last: str) -> None:
    code, _ = far.desk.open()
    with pytest.raises(RequestError):
        exchange(near, far, code, alter)
    assert not near.book.all()
    # Only the answer to the proof may be lost after this side has stored the other.
    assert not far.book.all() or last == "receipt"


def values_of(message: str, field: str) -> list[Any]:
    third = identity_of("third")
    known = {
        "version": [2, 0, -1, "1", None],
        "name": ["", "nea", "x" * 300, 5],
        "certificate": [third.certificate, "", third.certificate * 2, "text", "x" * 5000],
        "port": [1, 0, 65536, "11612"],
        "step": ["undo", "", "hello"],
    }
    return known.get(field, ["", "00", "zz" * 33, 5, None])


@pytest.mark.parametrize(
    ("message", "field"), [(message, field) for message, of in FIELDS.items() for field in of]
)
def test_a_changed_field_ends_the_pairing(
    near: Side, tmp_path: Path, message: str, field: str
) -> None:
    sent: dict[str, bytes] = {}

    def keep(name: str, data: bytes) -> bytes:
        sent[name] = data
        return data

    first = Side(tmp_path / "first", "far")
    exchange(Side(tmp_path / "sent", "near"), first, first.desk.open()[0], keep)
    other = json.loads(sent[message])[field]
    values = [*values_of(message, field), *([other_hex(other)] if isinstance(other, str) else [])]
    # The same field of another exchange: what somebody recorded earlier.
    values += [other] if field in ("spake", "exchange", "mac", "signature") else []
    for number, value in enumerate(values):
        far = Side(tmp_path / f"far{number}", "far")

        def alter(name: str, data: bytes, value: object = value) -> bytes:
            return changed(data, field, value) if name == message else data

        assert_refused(near, far, alter, message)


@pytest.mark.slow
@pytest.mark.parametrize("message", FIELDS)
@quick
@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_changed_byte_ends_the_pairing(message: str, place: float, bits: int) -> None:
    """Whichever it is. The signature is the one part that could be another valid one, which only
    the holder of the key can make."""

    def alter(name: str, data: bytes) -> bytes:
        if name != message:
            return data
        index = int(place * len(data))
        return data[:index] + bytes([data[index] ^ bits]) + data[index + 1 :]

    with tempfile.TemporaryDirectory() as folder:
        near, far = Side(Path(folder, "near"), "near"), Side(Path(folder, "far"), "far")
        assert_refused(near, far, alter, message)


@pytest.mark.slow
@pytest.mark.parametrize("message", FIELDS)
@quick
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_message_ends_the_pairing(message: str, share: float) -> None:
    def alter(name: str, data: bytes) -> bytes:
        return data[: int(share * len(data))] if name == message else data

    with tempfile.TemporaryDirectory() as folder:
        near, far = Side(Path(folder, "near"), "near"), Side(Path(folder, "far"), "far")
        assert_refused(near, far, alter, message)


@pytest.mark.parametrize("message", FIELDS)
def test_spaces_between_fields_count_too(near: Side, far: Side, message: str) -> None:
    """Of the first two messages every byte is proved. The other two hold nothing but proofs."""

    def alter(name: str, data: bytes) -> bytes:
        return data.replace(b",", b", ") if name == message else data

    if message in ("hello", "reply"):
        assert_refused(near, far, alter, message)
    else:
        exchange(near, far, far.desk.open()[0], alter)


def test_a_replayed_proof_is_refused(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    begun = near.initiator(far, code)
    proof = begun.prove(far.desk.answer(begun.hello, "10.0.0.9"))
    far.desk.confirm(proof, "10.0.0.9")
    far.book.remove(near.identity.fingerprint)
    with pytest.raises(PairingClosed):
        far.desk.confirm(proof, "10.0.0.9")
    far.desk.open()
    with pytest.raises(PairingClosed):
        far.desk.confirm(proof, "10.0.0.9")
    assert not far.book.all()


def test_a_replayed_exchange_is_refused(near: Side, far: Side) -> None:
    """Even with the same code: this side's part of it is new."""
    code, _ = far.desk.open()
    begun = near.initiator(far, code)
    proof = json.loads(begun.prove(far.desk.answer(begun.hello, "10.0.0.9")))
    again = json.loads(far.desk.answer(begun.hello, "10.0.0.9"))
    with pytest.raises(PairingFailed):
        far.desk.confirm(json.dumps({**proof, "exchange": again["exchange"]}).encode(), "10.0.0.9")


def test_an_exchange_is_one_attempt(near: Side, far: Side) -> None:
    """A right proof after a wrong one comes too late, so nothing can be tried twice."""
    code, _ = far.desk.open()
    begun = near.initiator(far, code)
    proof = begun.prove(far.desk.answer(begun.hello, "10.0.0.9"))
    with pytest.raises(PairingFailed):
        far.desk.confirm(changed(proof, "mac", "0" * 64), "10.0.0.9")
    with pytest.raises(PairingClosed):
        far.desk.confirm(proof, "10.0.0.9")


def test_messages_in_another_order_are_refused(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    one, two = near.initiator(far, code), near.initiator(far, code)
    first, second = far.desk.answer(one.hello, "10.0.0.9"), far.desk.answer(two.hello, "10.0.0.9")
    crossed = near.initiator(far, code)
    with pytest.raises(PairingClosed):
        far.desk.confirm(changed(one.prove(first), "exchange", "0" * 32), "10.0.0.9")
    with pytest.raises(PairingFailed):
        far.desk.confirm(crossed.prove(second), "10.0.0.9")
    for message in (one.hello, first):
        with pytest.raises(InvalidParameter):
            far.desk.confirm(message, "10.0.0.9")
    with pytest.raises(InvalidParameter):
        far.desk.answer(first, "10.0.0.9")


def test_reflected_messages_are_refused(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    begun = near.initiator(far, code)
    answer = json.loads(far.desk.answer(begun.hello, "10.0.0.9"))
    hello = json.loads(begun.hello)
    # A machine gets its own first message as that of the other one.
    for side in (hello["spake"][:2], answer["spake"][:2]):
        begun = near.initiator(far, code)
        element = side + json.loads(begun.hello)["spake"][2:]
        with pytest.raises(InvalidParameter, match="SPAKE2"):
            begun.prove(json.dumps({**answer, "spake": element}).encode())
    own = {**hello, "certificate": far.identity.certificate}
    with pytest.raises(InvalidParameter, match="same machine"):
        far.desk.answer(json.dumps(own).encode(), "10.0.0.9")
    # A machine gets its own proof as that of the other one.
    begun = near.initiator(far, code)
    proof = begun.prove(far.desk.answer(begun.hello, "10.0.0.9"))
    with pytest.raises(PairingFailed):
        begun.finish(json.dumps({"mac": json.loads(proof)["mac"]}).encode())


@pytest.mark.parametrize("element", ["00" * 32, "01" + "00" * 31, "ff" * 32, "ec" + "ff" * 31])
def test_elements_outside_the_group_are_refused(near: Side, far: Side, element: str) -> None:
    far.desk.open()
    hello = changed(near.initiator(far, "0" * 8).hello, "spake", f"41{element}")
    with pytest.raises(InvalidParameter):
        far.desk.answer(hello, "10.0.0.9")


@quick
@given(body=st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=40),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
            st.sampled_from([*FIELDS["hello"], *FIELDS["proof"], "x"]), inner, max_size=6
        ),
    ).map(lambda value: json.dumps(value).encode()),
))  # fmt: skip
def test_any_bytes_get_an_error(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        near, far = Side(Path(folder, "near"), "near"), Side(Path(folder, "far"), "far")
        code, _ = far.desk.open()
        for receive in (far.desk.answer, far.desk.confirm):
            with pytest.raises(RequestError):
                receive(body, "10.0.0.9")
        with pytest.raises(RequestError):
            near.initiator(far, code).prove(body)
        assert not far.book.all()


# --- machines in between, and certificates --------------------------------------------------------


def test_a_machine_in_between_is_noticed_by_its_certificate(near: Side, far: Side) -> None:
    """It ends the TLS with its own certificate, and passes all messages on."""
    third = Side(near.folder, "third")
    code, _ = far.desk.open()
    initiator = near.initiator(third, code)
    with pytest.raises(PairingFailed, match="in between"):
        initiator.prove(far.desk.answer(initiator.hello, "10.0.0.9"))
    assert not far.book.all()


def test_a_machine_in_between_cannot_put_in_its_own_certificates(near: Side, far: Side) -> None:
    third = Side(near.folder, "third")
    code, _ = far.desk.open()
    initiator = near.initiator(third, code)
    hello = changed(initiator.hello, "certificate", third.identity.certificate)
    answer = changed(far.desk.answer(hello, "10.0.0.9"), "certificate", third.identity.certificate)
    with pytest.raises(PairingFailed):
        far.desk.confirm(initiator.prove(answer), "10.0.0.9")
    assert not far.book.all()


def test_the_certificate_of_another_machine_needs_its_key(near: Side, far: Side) -> None:
    """A machine with the code cannot make a third one a peer."""
    third = Side(near.folder, "third")
    code, _ = far.desk.open()
    mixed = Side(near.folder, "near")
    mixed.identity = Identity(
        "near",
        third.identity.certificate,
        near.identity.certificate_file,
        near.identity.key_file,
    )
    with pytest.raises(PairingFailed, match="no key"):
        mixed.try_code(far, code)
    assert not far.book.all()


@pytest.mark.parametrize("kind", ["authority", "name", "curve", "rsa", "issued"])
def test_certificates_that_no_machine_makes_are_refused(near: Side, far: Side, kind: str) -> None:
    far.desk.open()
    hello = near.initiator(far, "0" * 8).hello
    with pytest.raises(InvalidParameter, match="not the certificate of an OffGrid machine"):
        far.desk.answer(changed(hello, "certificate", odd_certificate(kind)), "10.0.0.9")


def test_space_around_a_certificate_is_not_stored(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    initiator = near.initiator(far, code)
    text = f"\n{near.identity.certificate}\n\n"
    far.desk.answer(changed(initiator.hello, "certificate", text), "10.0.0.9")
    (begun,) = far.desk._exchanges.values()
    assert begun.peer.certificate == near.identity.certificate


@pytest.mark.parametrize("name", ["Bridge\x1b[31m\n", "\x00", "\u202egalley", "x" * 256])
def test_names_of_other_machines_are_cleaned(near: Side, far: Side, name: str) -> None:
    code, _ = far.desk.open()
    identity = near.identity
    near.identity = Identity(
        name, identity.certificate, identity.certificate_file, identity.key_file
    )
    near.try_code(far, code)
    (peer,) = far.book.all()
    assert peer.name.isprintable()
    assert 1 <= len(peer.name) <= 63


# --- storing --------------------------------------------------------------------------------------


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_of_the_machine_with_the_code(
    near: Side, far: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _ = far.desk.open()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreFailed, match="No space"):
        near.try_code(far, code)
    assert near.book.all() == far.book.all() == []
    assert far.desk.state().state == "closed"
    assert not far.is_open


def test_a_machine_that_cannot_store_its_peer_takes_the_pairing_back(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    initiator = near.initiator(far, code)
    far.desk.confirm(initiator.prove(far.desk.answer(initiator.hello, "10.0.0.9")), "10.0.0.9")
    assert far.knows(near)
    undo = initiator.undo()
    for value in ("0" * 64, json.loads(undo)["mac"][:-1] + "g"):
        with pytest.raises(RequestError):
            far.desk.confirm(changed(undo, "mac", value), "10.0.0.9")
    assert far.knows(near)
    far.desk.confirm(undo, "10.0.0.9")
    assert not far.book.all()
    assert far.desk.state().state == "closed"
    with pytest.raises(PairingClosed):
        far.desk.confirm(undo, "10.0.0.9")


def test_taking_back_a_second_pairing_leaves_the_first(near: Side, far: Side) -> None:
    near.try_code(far, far.desk.open()[0])
    (first,) = far.book.all()
    initiator = near.initiator(far, far.desk.open()[0], port=9)
    far.desk.confirm(initiator.prove(far.desk.answer(initiator.hello, "10.0.0.9")), "10.0.0.10")
    assert far.book.all()[0].port == 9
    far.desk.confirm(initiator.undo(), "10.0.0.10")
    assert far.book.all() == [first]


def test_a_pairing_can_be_taken_back_for_a_short_time(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    initiator = near.initiator(far, code)
    far.desk.confirm(initiator.prove(far.desk.answer(initiator.hello, "10.0.0.9")), "10.0.0.9")
    far.times.go_on(EXCHANGE_SECONDS)
    with pytest.raises(PairingClosed):
        far.desk.confirm(initiator.undo(), "10.0.0.9")
    assert far.knows(near)


def test_after_a_lost_last_message_the_machines_pair_again(near: Side, far: Side) -> None:
    code, _ = far.desk.open()
    initiator = near.initiator(far, code)
    far.desk.confirm(initiator.prove(far.desk.answer(initiator.hello, "10.0.0.9")), "10.0.0.9")
    assert far.knows(near)
    assert not near.knows(far)
    near.try_code(far, far.desk.open()[0])
    assert near.knows(far)
    assert len(far.book.all()) == 1


def test_a_full_book_is_told_before_the_code_is_used(
    near: Side, far: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _ = far.desk.open()
    certificates = [f"{number}" for number in range(MAX_PEERS)]
    monkeypatch.setattr(Peer, "fingerprint", property(lambda peer: peer.certificate))
    for name in certificates:
        far.book.add(Peer(name=name, certificate=name, addresses=(), port=1, paired_at=1))
    with pytest.raises(InvalidParameter, match="too many peers"):
        near.try_code(far, code)
    assert far.desk.is_open


# --- codes ----------------------------------------------------------------------------------------


def test_codes_are_random_and_shown_in_two_parts() -> None:
    codes = {pairing.new_code() for _ in range(100)}
    assert len(codes) > 90
    assert {len(code) for code in codes} == {8}
    assert pairing.shown_code("01234567") == "0123-4567"


@pytest.mark.parametrize("text", ["1234-5678", "12345678", " 1234 5678 ", "1234\u20115678"])
def test_a_code_may_be_typed_in_several_ways(text: str) -> None:
    assert pairing.typed_code(text) == "12345678"


@pytest.mark.parametrize("text", ["", "1234567", "123456789", "1234567x", "\u0661" * 8, "1" * 32])
def test_other_texts_are_no_codes_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        pairing.typed_code(text)
    assert caught.value.message == "A pairing code has eight digits, such as 1234-5678."
