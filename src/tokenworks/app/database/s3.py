"""Objects in an S3 bucket, over `http.client`, signed with AWS signature version 4.

Sources: Amazon's "Signature Version 4 signing process" and the S3 API reference (PutObject, GetObject, DeleteObject, ListObjectsV2).
A call has `TRIES` tries of `CALL_TIMEOUT_S` each; a permanent refusal (403, a missing bucket) is not tried again. Credentials come from
`secrets_dir/s3-credentials`, else from the environment variables that every S3 client reads.
"""

import hashlib
import hmac
import http.client
import os
import ssl
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from tokenworks.app.database.places import OBJECT_BYTES_MAX, Damaged, Exists, PlaceAway
from tokenworks.kernel import Invalid, NotFound, SystemClock, Unavailable

CALL_TIMEOUT_S: Final = 60.0
TRIES: Final = 5
WAIT_S: Final = 0.2
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
NAMES_MAX: Final = 10_000_000
_READ_BYTES: Final = 262_144
FILE_NAME: Final = "s3-credentials"
_PRIVATE: Final = 0o077
_NOTHING: Final = hashlib.sha256(b"").hexdigest()
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})


class Credentials(NamedTuple):
    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(****)"


def find_credentials(secrets_dir: Path) -> Credentials:
    """The credentials of the file, with a line each for `access_key_id = …`, `secret_access_key = …` and, optional, `session_token = …`;
    else of `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`. Raises `Unavailable`, `Invalid`.
    """
    path = secrets_dir / FILE_NAME
    if path.exists():
        if path.stat().st_mode & _PRIVATE:
            raise Unavailable(f"{path} can be read by others: chmod 600 it, and think about new credentials")
        lines = [
            line.partition("=") for line in path.read_text(encoding="ascii", errors="replace").splitlines()
        ]
        found = {name.strip().removeprefix("aws_"): value.strip() for name, equals, value in lines if equals}
    else:
        found = {name: os.environ.get(f"AWS_{name.upper()}", "") for name in Credentials._fields}
    if not found.get("access_key_id") or not found.get("secret_access_key"):
        raise Unavailable(
            f"there are no credentials for S3: write access_key_id = … and secret_access_key = … into {path} (mode 600)"
        )
    return Credentials(found["access_key_id"], found["secret_access_key"], found.get("session_token", ""))


def open_bucket(where: str, endpoint: str, region: str, secrets_dir: Path, *, path_style: bool) -> "Bucket":
    bucket, _, prefix = where.removeprefix("s3://").partition("/")
    if not bucket:
        raise Invalid(f"{where} names no bucket: it is s3://bucket or s3://bucket/prefix")
    return Bucket(
        where,
        bucket,
        prefix.strip("/"),
        endpoint or f"https://s3.{region}.amazonaws.com",
        region,
        find_credentials(secrets_dir),
        path_style=path_style,
    )


class Bucket:
    """A `Place` in a bucket. Error messages name `where`; they have no key and no signature."""

    def __init__(
        self,
        where: str,
        bucket: str,
        prefix: str,
        endpoint: str,
        region: str,
        credentials: Credentials,
        *,
        path_style: bool,
    ) -> None:
        self.where = where.rstrip("/")
        parts = urlsplit(endpoint)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        if not path_style:
            self._host = f"{bucket}.{self._host}"
        self._base = f"/{bucket}" if path_style else ""
        self._prefix = f"{prefix}/" if prefix else ""
        self._region = region
        self._credentials = credentials

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        headers = {"if-none-match": "*"} if new else {}
        status, body = self._call("PUT", self._prefix + name, {}, content, headers)
        # 409: another client writes the same name at this moment.
        if status in {409, 412}:
            raise Exists(f"{self.where}/{name} is there already")
        self._expect(status, body, {200, 201, 204}, name)

    def get(self, name: str) -> bytes:
        status, body = self._call("GET", self._prefix + name, {}, b"", {}, OBJECT_BYTES_MAX)
        if status == 404 and b"NoSuchBucket" not in body:
            raise NotFound(f"{self.where}/{name} is not there")
        self._expect(status, body, {200}, name)
        return body

    def names(self, prefix: str) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            query = {"list-type": "2", "prefix": self._prefix + prefix}
            if token:
                query["continuation-token"] = token
            status, body = self._call("GET", "", query, b"", {})
            self._expect(status, body, {200}, prefix)
            try:
                answer = ET.fromstring(body)  # noqa: S314  (of bounded size, from the place that the operator named)
            except ET.ParseError:
                raise PlaceAway(f"{self.where} answers with something that is no list of objects") from None
            for element in answer.iter():
                if element.tag.rpartition("}")[2] == "Key" and element.text:
                    found.append(element.text.removeprefix(self._prefix))
            token = next((e.text or "" for e in answer if e.tag.endswith("NextContinuationToken")), "")
            if not token:
                return sorted(found)
            if len(found) > NAMES_MAX:
                raise PlaceAway(f"{self.where} lists more than {NAMES_MAX} objects")

    def delete(self, name: str) -> None:
        status, body = self._call("DELETE", self._prefix + name, {}, b"", {})
        self._expect(status, body, {200, 202, 204, 404}, name)

    def _expect(self, status: int, body: bytes, wanted: set[int], name: str) -> None:
        if status not in wanted:
            code = body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode("ascii", "replace")[:60]
            what = f" ({code})" if code.isalnum() else ""
            raise PlaceAway(f"{self.where}/{name}: the server answers {status}{what}")

    def _call(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        body: bytes,
        headers: Mapping[str, str],
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> tuple[int, bytes]:
        """(status, body) of the last try."""
        path = quote(f"{self._base}/{key}", safe="/-_.~")
        text = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(query.items()))
        why = ""
        for number in range(TRIES):
            if number:
                time.sleep(WAIT_S * 2**number)
            signed = self._signed(method, path, text, body, headers)
            connection = self._connection()
            try:
                connection.request(method, f"{path}?{text}" if text else path, body or None, signed)
                answer = connection.getresponse()
                content = _read(answer, bytes_max + 1)
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
                continue
            finally:
                connection.close()
            if len(content) > bytes_max:
                raise Damaged(f"{self.where}/{key} is larger than any that was written")
            if answer.status not in _AGAIN:
                return answer.status, content
            why = f"the server answers {answer.status}"
        raise PlaceAway(f"{self.where} does not answer ({TRIES} tries): {why}".splitlines()[0][:300])

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=CALL_TIMEOUT_S, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=CALL_TIMEOUT_S)

    def _signed(
        self, method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]
    ) -> dict[str, str]:
        digest = hashlib.sha256(body).hexdigest() if body else _NOTHING
        # The server accepts a signature for a quarter of an hour by its own clock.
        at = datetime.fromtimestamp(SystemClock().civil_ms() / 1000, UTC)
        port = self._port if self._port not in {None, 443 if self._tls else 80} else None
        sent = {
            "host": f"{self._host}:{port}" if port else self._host,
            "x-amz-content-sha256": digest,
            "x-amz-date": f"{at:%Y%m%dT%H%M%SZ}",
            **headers,
        }
        if self._credentials.session_token:
            sent["x-amz-security-token"] = self._credentials.session_token
        scope = f"{at:%Y%m%d}/{self._region}/s3/aws4_request"
        names = ";".join(sorted(sent))
        canonical = "\n".join(
            [
                method,
                path,
                query,
                *(f"{name}:{sent[name].strip()}" for name in sorted(sent)),
                "",
                names,
                digest,
            ]
        )
        what = "\n".join(
            ["AWS4-HMAC-SHA256", sent["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
        )
        key = f"AWS4{self._credentials.secret_access_key}".encode()
        for part in (f"{at:%Y%m%d}", self._region, "s3", "aws4_request", what):
            key = hmac.digest(key, part.encode(), "sha256")
        return sent | {
            "authorization": f"AWS4-HMAC-SHA256 Credential={self._credentials.access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={key.hex()}"
        }


def _read(answer: http.client.HTTPResponse, bytes_max: int) -> bytes:
    """The body, at most `bytes_max` of it. Raises `TimeoutError` where the whole body takes longer than `CALL_TIMEOUT_S`."""
    deadline_s = time.monotonic() + CALL_TIMEOUT_S
    content = bytearray()
    while len(content) < bytes_max and (piece := answer.read1(min(_READ_BYTES, bytes_max - len(content)))):
        content += piece
        if time.monotonic() > deadline_s:
            raise TimeoutError("it took too long")
    left = answer.length
    if left and len(content) < bytes_max:
        raise http.client.IncompleteRead(b"", left)
    return bytes(content)
