from ipaddress import ip_network

import pytest

from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.proxies import Proxies

NETWORKS = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8")))


def headed(headers):
    head = Head()
    head.headers = headers
    return head


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (None, "10.0.0.1"),
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7, 10.0.0.9", "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7, 10.0.0.9", "198.51.100.7"),  # the first is the client's own word
        ("2001:db8::1", "2001:db8::1"),
        ("10.0.0.3", "10.0.0.1"),
        ("not an address", "10.0.0.1"),
    ],
)
def test_the_last_address_that_is_no_proxy_is_the_client(forwarded, client):
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded.encode()}
    proxies = Proxies(NETWORKS, tls=False)
    assert proxies.client_address("10.0.0.1", headed(headers)) == client


def test_without_proxies_nothing_is_taken():
    head = headed({b"x-forwarded-for": b"6.6.6.6"})
    assert Proxies((), tls=False).client_address("192.0.2.1", head) == "192.0.2.1"
