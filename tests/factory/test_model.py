from ipaddress import ip_address

import pytest

from tokenworks.factory import (
    CredentialMissing,
    DeploymentInvalid,
    address_refusal,
    make_deployment,
    read_credential,
)

GOOD = {
    "name": "a",
    "model": "m",
    "upstream_model": "m",
    "base_url": "https://x.example/v1",
    "protocols": ("chat",),
}


@pytest.mark.parametrize(
    ("base", "path"),
    [("https://x/v1", "/v1/chat/completions"), ("https://x", "/v1/chat/completions"), ("https://x/api/v4/", "/api/v4/chat/completions"),
     ("https://x/proxy", "/proxy/v1/chat/completions")],
)  # fmt: skip
def test_a_base_url_as_sdks_take_it(base, path):
    assert make_deployment(**(GOOD | {"base_url": base})).path("/v1/chat/completions") == path


@pytest.mark.parametrize(
    "change",
    [{"base_url": "ftp://x"}, {"base_url": "https://u:p@x/"}, {"base_url": "https://x/?a=b"}, {"base_url": "https://x/a//b"}, {"base_url": "https://x/../b"},
     {"base_url": "https://x\r\nevil: 1/"}, {"name": "a b"}, {"model": "m\r\n"}, {"protocols": ()}, {"protocols": ("smtp",)}, {"credential": "env:PATH"},
     {"credential": "file:../../etc/passwd"}, {"credential": "file:pepper-1"}, {"credential": "sk-secret"}, {"context_tokens": 0},
     {"base_url": "http://127.0.0.1/"}, {"base_url": "http://10.0.0.1/"}, {"base_url": "http://[::1]/"}, {"base_url": "http://169.254.169.254/", "allow_private": True}],
)  # fmt: skip
def test_what_is_no_deployment(change):
    with pytest.raises(DeploymentInvalid):
        make_deployment(**(GOOD | change))


@pytest.mark.parametrize(
    ("address", "private", "refused"),
    [("64:ff9b::a9fe:a9fe", True, True), ("64:ff9b::7f00:1", False, True), ("64:ff9b::a01:203", False, True), ("64:ff9b::808:808", False, False),
     ("2002:a9fe:a9fe::1", True, True), ("2002:7f00:1::", False, True), ("64:ff9b:1::a00:1", False, True), ("::7f00:1", False, True),
     ("8.8.8.8", False, False), ("127.0.0.1", False, True), ("127.0.0.1", True, False), ("10.1.2.3", True, False), ("169.254.169.254", True, True),
     ("fe80::1", True, True), ("::ffff:169.254.169.254", True, True), ("::ffff:10.0.0.1", False, True), ("0.0.0.0", True, True), ("224.0.0.1", True, True),
     ("100.64.0.1", False, True), ("fd00::1", False, True), ("fd00::1", True, False), ("2001:4860:4860::8888", False, False)],
)  # fmt: skip
def test_addresses(address, private, refused):
    assert (address_refusal(ip_address(address), allow_private=private) is not None) == refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"sk-2", None),
        (b"  sk-2 \r\n\r\n", None),
        (b"\xef\xbb\xbfsk-2\n", None),
        (b"sk-2\nsk-3\n", "it has 2 lines"),
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        ("sk–2".encode(), "other than printable ASCII"),
        (b"s" * 5000, "5000 characters"),
    ],
)
def test_a_credential_is_one_line(tmp_path, content, said):
    (tmp_path / "vendor").write_bytes(content)
    (tmp_path / "vendor").chmod(0o600)
    if said is None:
        assert read_credential("file:vendor", tmp_path) == "sk-2"
        return
    with pytest.raises(CredentialMissing, match=said) as caught:
        read_credential("file:vendor", tmp_path)
    assert "vendor" in str(caught.value) and "sk-" not in str(caught.value)


def test_a_credential_that_is_no_file_is_said(tmp_path):
    with pytest.raises(
        CredentialMissing, match="is missing: write the vendor's credential into it, mode 600"
    ):
        read_credential("file:vendor", tmp_path)
    (tmp_path / "vendor").mkdir()
    with pytest.raises(CredentialMissing, match="is a folder"):
        read_credential("file:vendor", tmp_path)


@pytest.mark.parametrize("name", ["pepper-1", "person-wrap-1", "person-lookup", "webhook-secret"])
def test_our_own_secrets_are_sent_to_no_upstream(name):
    with pytest.raises(DeploymentInvalid, match="credential"):
        make_deployment(**(GOOD | {"credential": f"file:{name}"}))


def test_credentials_are_read_where_they_are_and_never_shown(tmp_path):
    assert read_credential("env:TOKENWORKS_UPSTREAM_X", tmp_path, {"TOKENWORKS_UPSTREAM_X": "sk-1"}) == "sk-1"
    assert read_credential(None, tmp_path) is None
    (tmp_path / "vendor").write_text("sk-2\n")
    (tmp_path / "vendor").chmod(0o600)
    assert read_credential("file:vendor", tmp_path) == "sk-2"
    (tmp_path / "vendor").chmod(0o644)
    with pytest.raises(CredentialMissing, match="chmod 600"):
        read_credential("file:vendor", tmp_path)
    for reference, environ in (
        ("env:TOKENWORKS_UPSTREAM_X", {}),
        ("file:none", {}),
        ("env:TOKENWORKS_UPSTREAM_X", {"TOKENWORKS_UPSTREAM_X": "a\nb"}),
    ):
        with pytest.raises(CredentialMissing) as caught:
            read_credential(reference, tmp_path, environ)
        assert "a\nb" not in str(caught.value)
