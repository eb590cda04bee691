"""Finds out which protocols a deployment speaks, without making it produce a token."""

import http.client
import socket
import ssl
from typing import Final

from tokenworks.factory.errors import ProtocolsUnknown
from tokenworks.factory.facts.endpoints import auth_headers, auth_of, paths_of
from tokenworks.factory.facts.profiles import Profile, profile_of
from tokenworks.factory.model import PROTOCOL_PATHS, Deployment, Protocol, address_refusal, parse_address

PROBE_TIMEOUT_S: Final = 10.0
# Statuses that mean "there is no such route". With any other answer to an empty request the route exists.
_ABSENT: Final = frozenset({404, 405, 501})


def probe_protocols(deployment: Deployment, credential: str | None) -> tuple[Protocol, ...]:
    """The protocols whose route answers an empty request with anything but 404, 405 or 501.

    Raises `ProtocolsUnknown` if the deployment does not answer, or its address is refused.
    """
    spoken = []
    profile = profile_of(deployment.profile)
    paths = paths_of(deployment, profile)
    for protocol in PROTOCOL_PATHS:
        try:
            status = _post_empty(deployment, protocol, paths[protocol], profile, credential)
        except (OSError, http.client.HTTPException) as error:
            raise ProtocolsUnknown(
                f"{deployment.base_url} does not answer ({error}): start it first, or say what it speaks with --protocol"
            ) from None
        if status not in _ABSENT:
            spoken.append(protocol)
    if not spoken:
        raise ProtocolsUnknown(
            f"{deployment.base_url} speaks none of {', '.join(PROTOCOL_PATHS)}: is the URL right?"
        )
    return tuple(spoken)


def _post_empty(
    deployment: Deployment, protocol: Protocol, path: str, profile: Profile, credential: str | None
) -> int:
    found = socket.getaddrinfo(deployment.host, deployment.port, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    reason = address_refusal(parse_address(address), allow_private=deployment.allow_private)
    if reason:
        raise ProtocolsUnknown(reason)
    connection: http.client.HTTPConnection
    if deployment.tls:
        connection = http.client.HTTPSConnection(
            deployment.host, deployment.port, timeout=PROBE_TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(deployment.host, deployment.port, timeout=PROBE_TIMEOUT_S)
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    if credential:
        headers |= auth_headers(auth_of(deployment, profile, protocol), credential)
    try:
        # Connect to the checked address and look the name up no second time (TLS still checks the name).
        connection.sock = socket.create_connection((address, deployment.port), PROBE_TIMEOUT_S)
        if isinstance(connection, http.client.HTTPSConnection):
            connection.sock = ssl.create_default_context().wrap_socket(
                connection.sock, server_hostname=deployment.host
            )
        connection.request("POST", path, b"{}", headers)
        return connection.getresponse().status
    finally:
        connection.close()
