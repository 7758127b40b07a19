"""The caller of a request without keys is the machine or household that its address stands for."""

from __future__ import annotations

import pytest

from offgrid.addresses import group_of


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("192.168.1.20", "192.168.1.20"),
        ("::ffff:192.168.1.20", "192.168.1.20"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::1"),
        ("", "unix"),
    ],
)
def test_an_address_stands_for_a_machine_or_a_household(address: str, group: str) -> None:
    assert group_of(address) == group
