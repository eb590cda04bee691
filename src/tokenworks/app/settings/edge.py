"""Settings of the edge: one table of limits. Each row has a name, default, minimum, maximum, and what it bounds."""

from pydantic import Field

from tokenworks.app.settings.topic import Topic, limit


class EdgeLimits(Topic):
    """Limits for one client, one upstream connection and one request, in one table."""

    # fmt: off
    header_bytes_max: int = limit(32_768, 1024, 1_048_576, "a request's line and headers")
    header_count_max: int = limit(100, 10, 1000, "a request's headers")
    body_bytes_max: int = limit(16_777_216, 1024, 1_073_741_824, "a request's body")
    control_body_bytes_max: int = limit(262_144, 1024, 1_073_741_824, "a request's body on a route of the control plane, except files of the operator, which body_bytes_max bounds")
    memory_bytes_max: int = limit(201_326_592, 1_048_576, 2**40, "bytes of requests and answers in flight in a worker: bodies, heads, unread data of upstreams and slow readers; more are refused")
    memory_address_percent: int = limit(50, 1, 100, "of memory_bytes_max that one client address may have in flight")
    cors_origins: str = Field(
        default="*",
        max_length=4000,
        pattern=r"^[!-~ ]*$",
        description="origins (https://app.example, …) whose pages may use the data plane with a key; *: all; empty: none",
    )
    response_bytes_max: int = limit(67_108_864, 65_536, 1_073_741_824, "a response that is not streamed")
    event_bytes_max: int = limit(16_777_216, 4096, 268_435_456, "one event of a stream")
    write_buffer_bytes: int = limit(65_536, 4096, 67_108_864, "a slow reader pauses its upstream above this")
    connections_max: int = limit(20_000, 10, 1_000_000, "client connections of a worker")
    control_connections_max: int = limit(100, 1, 10_000, "requests to the control plane at once, per worker")
    requests_max: int = limit(8_000, 1, 1_000_000, "requests in flight of a worker; more get 429")
    key_requests_max: int = limit(2_000, 1, 1_000_000, "requests in flight of one key in a worker; more get 429")
    key_abandons_per_min: int = limit(300, 0, 1_000_000, "streams that one key may abandon long before their end, in a minute and per worker; more get 429. 0: any number")
    upstream_idle_max: int = limit(512, 0, 100_000, "idle connections kept to one deployment by a worker")
    header_timeout_s: int = limit(15, 1, 600, "from the first byte of a request to the end of its headers")
    body_timeout_s: int = limit(60, 1, 3600, "for a request's body")
    idle_timeout_s: int = limit(75, 1, 3600, "a kept-alive client connection without a request")
    write_timeout_s: int = limit(60, 1, 3600, "for a client that reads no bytes of a waiting answer")
    upstream_connect_timeout_s: int = limit(5, 1, 120, "to connect to a deployment, TLS included")
    upstream_first_byte_timeout_s: int = limit(120, 1, 3600, "to the first byte of a deployment's stream; for an answer that is not streamed, where another deployment could be tried")
    upstream_idle_timeout_s: int = limit(300, 1, 3600, "between two bytes of a deployment, unless it says otherwise")
    request_timeout_s: int = limit(1800, 1, 86_400, "for a request as a whole")
    # fmt: on
