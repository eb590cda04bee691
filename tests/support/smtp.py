"""A real SMTP server for tests (RFC 5321, 3207, 4954): it offers what it is told, and answers, waits or drips as it is told."""

import base64
import email
import socketserver
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from email.policy import SMTP

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "localhost"


def certificate(folder, name=HOST):
    """(file of the certificate, file with certificate and key) of a host."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    public = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    ca, both = folder / f"{name}.pem", folder / f"{name}.both.pem"
    ca.write_bytes(public)
    both.write_bytes(public + private)
    return ca, both


class _Session(socketserver.StreamRequestHandler):
    """One connection. What it was told goes into the server's lists."""

    def say(self, text):
        self.wfile.write(f"{text}\r\n".encode())
        self.wfile.flush()

    def handle(self):
        told = self.server.told
        self.is_tls = told.tls == "tls"
        if self.is_tls:
            self.use_tls()
        told.connections += 1
        if told.drips.is_set():
            self.drip()
            return
        self.say("220 ready")
        self.sender, self.to = None, []
        while line := self.rfile.readline(4096):
            words = line.decode("utf-8", "replace").rstrip("\r\n")
            verb, _, rest = words.partition(" ")
            verb = verb.upper()
            told.commands.append(f"{verb} {rest}".strip())
            scripted = told.answers.get(verb)
            if scripted:
                self.say(scripted.pop(0))
                continue
            if verb == "QUIT":
                self.say("221 bye")
                return
            getattr(self, f"do_{verb.lower()}", self.do_unknown)(words)

    def use_tls(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server.told.both)
        self.request = context.wrap_socket(self.request, server_side=True)
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb")
        self.is_tls = True

    def drip(self):
        """A byte a while and never an end: each one is in time, all of them are not."""
        try:
            while self.server.told.drips.is_set():
                self.wfile.write(b"2")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    def do_ehlo(self, _):
        told = self.server.told
        offers = ["localhost"]
        if told.tls == "starttls" and not self.is_tls:
            offers.append("STARTTLS")
        if told.user is not None and self.is_tls:
            offers.append("AUTH PLAIN")
        for offer in offers[:-1]:
            self.say(f"250-{offer}")
        self.say(f"250 {offers[-1]}")

    def do_starttls(self, _):
        self.say("220 go ahead")
        self.use_tls()

    def do_auth(self, words):
        _, user, password = base64.b64decode(words.split(" ")[2]).decode().split("\0")
        self.say("235 ok" if (user, password) == self.server.told.user else "535 no")

    def do_mail(self, words):
        self.sender, self.to = words.partition(":")[2], []
        self.say("250 ok")

    def do_rcpt(self, words):
        self.to.append(words.partition("<")[2].partition(">")[0])
        self.say("250 ok")

    def do_data(self, _):
        self.say("354 go ahead")
        content = b""
        while (line := self.rfile.readline(65_536)) != b".\r\n":
            content += line[1:] if line.startswith(b"..") else line
        scripted = self.server.told.answers.get("END")
        if scripted:
            self.say(scripted.pop(0))
            return
        self.server.told.mails.append((self.to, content, email.message_from_bytes(content, policy=SMTP)))
        self.say("250 taken")

    def do_rset(self, _):
        self.say("250 ok")

    def do_unknown(self, _):
        self.say("502 not here")


class SmtpServer:
    """`mails`: (receivers, bytes, message) of what was taken. `answers`: by verb (`END`: after the content), the next answers of it.
    `tls`: starttls, tls or none. `user`: (name, password) of who may sign in.
    """

    def __init__(self, folder, tls="starttls", user=None):
        self.tls, self.user = tls, user
        self.ca, self.both = certificate(folder)
        self.mails, self.commands, self.answers, self.connections = [], [], {}, 0
        self.drips = threading.Event()
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Session)
        self.server.daemon_threads = True
        self.server.told = self
        self.server.handle_error = lambda *_: None
        self.port = self.server.server_address[1]

    def settings(self):
        """The settings with which a works sends to it."""
        return {
            "smtp_host": HOST, "smtp_port": self.port, "smtp_tls": self.tls, "smtp_ca_file": str(self.ca),
            "smtp_from": "notices@carrier.example", "public_url": "https://tokens.carrier.example", "smtp_timeout_s": 5,
        }  # fmt: skip

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.drips.clear()
        self.server.shutdown()
        self.server.server_close()
