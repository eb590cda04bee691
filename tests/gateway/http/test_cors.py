"""What a page may read of an answer."""

import re
from pathlib import Path

import tokenworks.gateway
from tokenworks.gateway.http.cors import Origins


def test_a_page_may_read_every_header_of_this_gateway():
    sources = Path(tokenworks.gateway.__file__).parent.rglob("*.py")
    written = {name for path in sources for name in re.findall(r"(x-tokenworks-[a-z-]+): ", path.read_text())}
    assert {"x-tokenworks-model", "x-tokenworks-stored", "x-tokenworks-compacted"} <= written
    exposed = Origins("*").lines(b"https://page.example").decode()
    assert not {name for name in written if f" {name}," not in exposed}
