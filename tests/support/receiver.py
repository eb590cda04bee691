"""A real HTTP server that takes webhooks: it answers as it is told, waits, redirects, or drips."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """`answers`: what it says next, each (status, headers, body); then 204. `got`: (path, headers, body)."""

    def __init__(self):
        self.got, self.answers = [], []
        self.drips = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append((self.path, dict(self.headers), body))
                if outer.drips.is_set():
                    self._drip()
                    return
                status, headers, content = outer.answers.pop(0) if outer.answers else (204, {}, b"")
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST

            def _drip(self):
                """A byte a while, never an end: each one is in time, all of them are not."""
                try:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
                    while outer.drips.is_set():
                        self.wfile.write(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.drips.clear()
        self.server.shutdown()
        self.server.server_close()

    def bodies(self):
        return [json.loads(body) for _, _, body in self.got]
