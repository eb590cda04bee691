"""A stand-in for S3 that checks signatures by itself, from the text of Amazon's specification of version 4.

It keeps objects in memory, knows `If-None-Match: *` and pages its lists. `fail` is a list of statuses to answer with first, `away`
closes each connection without an answer; `cut` of the next answers end in their middle.
"""

import contextlib
import hashlib
import hmac
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

ACCESS_KEY, SECRET_KEY, REGION = "AKIATESTONLY", "wJalrXUtnFEMI/K7MDENG+secret", "eu-test-1"
PAGE = 3


class S3:
    def __init__(self, bucket="works", host_style=False):
        self.bucket = bucket
        self.host_style = host_style
        self.objects = {}
        self.requests = []
        self.fail = []
        self.away = False
        self.cut = 0

    def __enter__(self):
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self):
                stand_in.answer(self)

            do_GET = do_DELETE = do_PUT

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        if self.away:
            handler.close_connection = True
            with contextlib.suppress(OSError):
                handler.connection.close()
            return
        self.requests.append((handler.command, handler.path))
        if self.fail:
            self.say(handler, self.fail.pop(0), b"<Error><Code>SlowDown</Code></Error>")
            return
        fault = self.fault(handler, body)
        if fault:
            self.say(handler, 403, f"<Error><Code>{fault}</Code></Error>".encode())
            return
        parts = urlsplit(handler.path)
        path = unquote(parts.path)
        if not self.host_style:
            bucket, _, path = path.lstrip("/").partition("/")
            if bucket != self.bucket:
                self.say(handler, 404, b"<Error><Code>NoSuchBucket</Code></Error>")
                return
        self.do(handler, path.lstrip("/"), dict(parse_qsl(parts.query)), body)

    def do(self, handler, key, query, body):
        if handler.command == "PUT":
            if handler.headers.get("if-none-match") == "*" and key in self.objects:
                self.say(handler, 412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.objects[key] = body
            self.say(handler, 200, b"")
        elif handler.command == "DELETE":
            self.objects.pop(key, None)
            self.say(handler, 204, b"")
        elif query.get("list-type") == "2":
            names = sorted(name for name in self.objects if name.startswith(query.get("prefix", "")))
            at = int(query.get("continuation-token", 0))
            page = "".join(
                f"<Contents><Key>{escape(name)}</Key></Contents>" for name in names[at : at + PAGE]
            )
            more = (
                f"<NextContinuationToken>{at + PAGE}</NextContinuationToken>"
                if at + PAGE < len(names)
                else ""
            )
            text = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{page}{more}</ListBucketResult>'
            self.say(handler, 200, text.encode())
        elif key in self.objects and self.cut:
            self.cut -= 1
            handler.send_response(200)
            handler.send_header("content-length", str(len(self.objects[key])))
            handler.end_headers()
            handler.wfile.write(self.objects[key][: len(self.objects[key]) // 2])
            handler.close_connection = True
        elif key in self.objects:
            self.say(handler, 200, self.objects[key])
        else:
            self.say(handler, 404, b"<Error><Code>NoSuchKey</Code></Error>")

    def fault(self, handler, body):
        """What is wrong with a request's signature, None where nothing is."""
        given = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})",
            handler.headers.get("authorization", ""),
        )
        if given is None:
            return "AccessDenied"
        access_key, day, region, names, signature = given.groups()
        if access_key != ACCESS_KEY:
            return "InvalidAccessKeyId"
        if region != REGION:
            return "AuthorizationHeaderMalformed"
        if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names.split(";")):
            return "AccessDenied"
        if handler.headers["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest():
            return "XAmzContentSHA256Mismatch"
        path, _, query = handler.path.partition("?")
        lines = [handler.command, path, "&".join(sorted(query.split("&")))]
        lines += [f"{name}:{' '.join(handler.headers[name].split())}" for name in names.split(";")]
        lines += ["", names, handler.headers["x-amz-content-sha256"]]
        request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        scope = f"{day}/{region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{handler.headers['x-amz-date']}\n{scope}\n{request}"

        def mac(key, text):
            return hmac.new(key, text.encode(), hashlib.sha256).digest()

        key = mac(mac(mac(mac(b"AWS4" + SECRET_KEY.encode(), day), region), "s3"), "aws4_request")
        return None if mac(key, to_sign).hex() == signature else "SignatureDoesNotMatch"

    @staticmethod
    def say(handler, status, body):
        handler.send_response(status)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
