"""Addresses of other machines, as people type them and as sockets show them."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.addresses import of_socket, place, split_address, unmapped


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.168.1.7", "192.168.1.7", 11612),
        (" 192.168.1.7:5 ", "192.168.1.7", 5),
        ("ship-2\n", "ship-2", 11612),
        ("ship_2.local:65535", "ship_2.local", 65535),
        ("::1", "::1", 11612),
        ("[::1]", "::1", 11612),
        ("[::1]:11700", "::1", 11700),
        ("fe80::1%eth0", "fe80::1%eth0", 11612),
        ("[fe80::1%eth0]:7", "fe80::1%eth0", 7),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", 11612),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert split_address(text, 11612) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "http://ship", "ship/peer", "ship:", "ship:x", "ship:0", "ship:65536", "[::1",
     "::1]:5", "[::1]:", "[ship]:5", "1:2:3", "zz::1", "ship:5:6", "ship\x1b[31m",
     "user@ship", "ship?x", "\u0661:\u0661", "a" * 300],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        split_address(text, 11612)


@given(
    host=st.ip_addresses().map(str) | st.from_regex(r"\A[a-z0-9-]{1,20}(\.[a-z]{1,5})?\Z"),
    port=st.integers(1, 65535),
)
def test_a_place_is_read_again(host: str, port: int) -> None:
    assert split_address(place(host, port, 11612), 11612) == (host, port)


@pytest.mark.parametrize(
    ("shown", "address"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1%eth0"),
     ("2001:db8::1", "2001:db8::1"), ("", "")],
)  # fmt: skip
def test_addresses_of_ipv4_through_ipv6(shown: str, address: str) -> None:
    assert unmapped(shown) == address


def test_a_link_local_address_keeps_its_zone() -> None:
    number, name = socket.if_nameindex()[0]
    address = of_socket(("fe80::1", 11612, 0, number))
    assert address == f"fe80::1%{name}"
    assert split_address(address, 11612) == (address, 11612)
    assert unmapped(address) == address
    assert of_socket((address, 11612, 0, number)) == address


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (("10.0.0.1", 5), "10.0.0.1"),
        (("2001:db8::1", 5, 0, 0), "2001:db8::1"),
        (("fe80::1", 5, 0, 0x7FFFFFFF), "fe80::1"),  # no interface has this number
        (("unix", 0), "unix"),
    ],
)
def test_other_addresses_have_no_zone(name: tuple[object, ...], address: str) -> None:
    assert of_socket(name) == address
