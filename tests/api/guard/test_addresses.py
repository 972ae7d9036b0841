"""Addresses: IPv6 networks as one client, and hosts that only this machine can reach."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.guard.addresses import ClientFinder, is_loopback_host, parse_address

find_client = ClientFinder([])


def client_of(address):
    return find_client({"client": (str(address), 1), "headers": []})


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1))
def test_addresses_of_one_ipv6_network_are_one_client(number, host):
    address = ipaddress.IPv6Address(number)
    neighbour = ipaddress.IPv6Address(number >> 64 << 64 | host)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert client_of(address).subject == client_of(neighbour).subject
        other = ipaddress.IPv6Address(number ^ 1 << 64)
        assert (
            other.ipv4_mapped is not None or client_of(other).subject != client_of(address).subject
        )


@given(st.ip_addresses(v=4))
def test_ipv4_client_is_the_same_as_its_ipv6_form(address):
    assert client_of(f"::ffff:{address}") == client_of(address)
    assert client_of(address).subject == str(address)


@given(st.ip_addresses())
def test_address_with_a_zone_is_the_address(address):
    assert parse_address(f"{address}%eth0") == parse_address(str(address))


@pytest.mark.parametrize("client", [None, ("", 0), ("a unix socket", 0)])
def test_client_without_an_address_is_unknown_and_not_loopback(client):
    found = find_client({"client": client, "headers": []})
    assert (found.address, found.subject, found.is_loopback) == ("unknown", "unknown", False)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("LocalHost", True), ("127.9.9.9", True), ("[::1]", True), ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False), ("::", False), ("localhost.example", False), ("music.lan", False),
        ("", False),
    ],
)  # fmt: skip
def test_loopback_hosts(host, expected):
    assert is_loopback_host(host) is expected
