"""Settings of the business: the operator, the law, the archive, bills."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tokenworks.app.settings.topic import Topic
from tokenworks.kernel import Invalid
from tokenworks.trust import PasskeySites


class Operator(Topic):
    """The operator: its name, its webhook, its rules for staff."""

    webhook_url: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,500})?$",
        description="alerts and dunning are POSTed here, signed with secrets_dir/webhook-secret, tried again for a day",
    )
    staff_token_days: int = Field(
        default=90,
        ge=1,
        le=3650,
        description="a staff token ends after so long: `staff rotate` makes a new one",
    )
    two_persons_above_yuan: int = Field(
        default=1000,
        ge=0,
        le=1_000_000_000,
        description="a credit, write-off, credit limit or discount by staff above this amount needs a second person's approval",
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="webhooks, work orders and messages may go to loopback and private addresses; to link-local ones never",
    )
    webhook_secret_overlap_h: int = Field(
        default=168,
        ge=0,
        le=720,
        description="how long the old secret still signs beside the new one after `webhook rotate`",
    )
    fulfilment_urls: str = Field(
        default="",
        max_length=4000,
        description="where work orders are POSTed, as TMF641 service orders: port=https://…, one for each port, with spaces between; "
        "the others are polled",
    )
    delivery_timeout_h: int = Field(
        default=168,
        ge=0,
        le=24 * 365,
        description="a delivery without an answer for this long fails, is credited and withdrawn; 0: never",
    )
    public_url: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,200})?$",
        description="the URL of the public port for people, for links; empty: the URL of their request",
    )
    passkey_origins: str = Field(
        default="",
        max_length=2000,
        pattern=r"^[!-~ ]*$",
        description="origins (https://shop.example …) whose pages may sign in with passkeys, with spaces between; empty: that of public_url, and without it localhost alone",
    )
    passkey_rp_id: str = Field(
        default="",
        max_length=253,
        pattern=r"^[A-Za-z0-9.-]*$",
        description="the host name to which passkeys belong: the host of each of passkey_origins, or above it; empty: the host of the first one. After a change, passkeys that were made before sign in no more",
    )
    sms_url: str = Field(
        default="",
        pattern=r"^(https?://[!-~]{1,500})?$",
        description="one-time codes and notices are POSTed here as JSON {phone, kind, code or text}; empty: codes go into a file, in a dev environment alone",
    )
    operator_name: str = Field(
        default="Tokenworks", min_length=1, max_length=100, description="the seller's name on a bill"
    )
    usd_yuan: str = Field(
        default="",
        pattern=r"^([0-9]{1,4}(\.[0-9]{1,6})?)?$",
        description="yuan for a US dollar, a decimal such as 7.1: with it `deployment add` takes list prices in dollars; empty: those are shown and not used",
    )
    consent_texts_dir: Path | None = Field(
        default=None,
        description="a folder with the operator's own consent texts, <purpose>.<language>.txt; left out: the texts of Tokenworks",
    )

    @field_validator("usd_yuan")
    @classmethod
    def _usd_yuan(cls, value: str) -> str:
        if value and not float(value):
            raise ValueError("a rate of exchange is above zero")
        return value

    @model_validator(mode="after")
    def _passkey_sites(self) -> Self:
        try:
            PasskeySites(self.passkey_rp_id, self.passkey_origins, self.public_url)
        except Invalid as error:
            raise ValueError(str(error)) from None
        return self

    @field_validator("fulfilment_urls")
    @classmethod
    def _fulfilment_urls(cls, value: str) -> str:
        for part in value.split():
            port, _, url = part.partition("=")
            if not re.fullmatch(r"[a-z0-9-]{1,64}", port) or not re.fullmatch(r"https?://[!-~]{1,500}", url):
                raise ValueError("it is port=https://… for each port, with spaces between")
        return value

    @property
    def fulfilment(self) -> dict[str, str]:
        """Port -> the URL to which its work orders are sent."""
        parts = (part.partition("=") for part in self.fulfilment_urls.split())
        return {port: url for port, _, url in parts}


class Mail(Topic):
    """Notices to people: the SMTP server for e-mail, and how long notices are kept."""

    smtp_host: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?)?$",
        description="the SMTP server that takes the e-mails of notices; empty: no e-mail is sent. smtp_from and public_url are needed, too",
    )
    smtp_port: int = Field(default=587, ge=1, le=65_535, description="the port of smtp_host")
    smtp_tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="starttls: TLS is begun on the connection, or nothing is sent; tls: from the first byte (port 465); none: without TLS, "
        "and without smtp_user",
    )
    smtp_ca_file: Path | None = Field(
        default=None,
        description="a file of certificates that the certificate of smtp_host is checked against; left out: the system's",
    )
    smtp_user: str = Field(
        default="",
        max_length=200,
        pattern=r"^[!-~]*$",
        description="the user at smtp_host, whose password is in secrets_dir/smtp-password; empty: no sign-in",
    )
    smtp_from: str = Field(
        default="",
        max_length=254,
        pattern=r"^([A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,189})?$",
        description="the sender of e-mails, an address such as notices@carrier.example",
    )
    smtp_timeout_s: int = Field(
        default=10, ge=1, le=60, description="for one e-mail, and for the connection to smtp_host"
    )
    notice_days: int = Field(
        default=365,
        ge=30,
        le=3650,
        description="notices and the log of their deliveries are deleted after so long",
    )
    notice_webhook_allow_private: bool = Field(
        default=False,
        description="webhooks that subscribers give may be at loopback and private addresses: for tests alone, since a subscriber could "
        "else reach what is inside of the operator's network",
    )


class Privacy(Topic):
    """Requirements of the law: consent, real names, residency, erasure."""

    residency_region: str = Field(
        default="cn",
        pattern=r"^[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,3}$",
        description="where data stays without consent to leave, as a prefix of deployments' regions",
    )
    cross_border_consent: Literal["opt_out", "opt_in"] = Field(
        default="opt_out",
        description="opt_in: nothing leaves residency_region before a subscriber agrees; opt_out: until the consent is withdrawn",
    )
    terms_required: bool = Field(
        default=False,
        description="nothing is ordered or served without consent to the terms; false: only a withdrawn consent stops it",
    )
    real_name_required: bool = Field(
        default=False,
        description="nothing is ordered before the real name is verified; false: only what the catalogue marks real_name_only",
    )
    real_name_check: str = Field(
        default="",
        max_length=500,
        pattern=r"^((https?://|file:/)[!-~]{1,480})?$",
        description="the carrier's real-name check: an http(s) URL that is POSTed to, or file:/path of a CSV of phone, name, "
        "SHA-256 of the document's number; empty: nothing is verified, but in a dev environment everything",
    )
    identity_hash_days: int = Field(
        default=1095,
        ge=0,
        le=36_500,
        description="how long a keyed hash of an erased person's identity number is kept, for limits per person; 0: not at all",
    )
    backup_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="how long the operator keeps backups of the database: they forget an erased person when they are deleted",
    )


class Archive(Topic):
    """Where the archive and backups are kept."""

    archive_to: str = Field(
        default="",
        max_length=500,
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,62}(/[A-Za-z0-9._/-]{0,400})?|/.{1,499})?$",
        description="a folder (its whole path) or s3://bucket/prefix, where the embedded database's write-ahead log and the journal "
        "are kept as they grow, and where `backup` goes; empty: nothing is kept by itself",
    )
    archive_timeout_s: int = Field(
        default=60,
        ge=1,
        le=86_400,
        description="a commit is in archive_to after this time at the latest, also where little is written",
    )
    s3_endpoint: str = Field(
        default="",
        pattern=r"^(https?://[A-Za-z0-9.:_-]{1,200})?$",
        description="where S3 is; empty: Amazon's of s3_region. Credentials: secrets_dir/s3-credentials, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY",
    )
    s3_region: str = Field(
        default="us-east-1",
        pattern=r"^[a-z0-9-]{1,40}$",
        description="the region that S3 requests are signed for",
    )
    s3_path_style: bool = Field(
        default=False,
        description="the bucket is in the path, not in the host's name, as most servers of one's own want it",
    )


class Billing(Topic):
    """Bills and dunning."""

    fonts_dir: Path | None = Field(
        default=None, description="a folder with a Chinese font for bills, such as Noto Sans CJK SC"
    )
    bill_due_days: int = Field(
        default=15, ge=0, le=365, description="a bill is due this long after it is issued"
    )
    bill_run_batch: int = Field(
        default=2000, ge=1, le=100_000, description="subscribers of one transaction of a bill run"
    )
    bill_run_every_h: int = Field(
        default=24,
        ge=0,
        le=24 * 31,
        description="how often a server bills the subscribers whose period has ended; 0: only `bill run` does",
    )
    dunning_remind_days: int = Field(
        default=3,
        ge=0,
        le=3650,
        description="a subscriber is reminded this long after a bill was due; 0: never",
    )
    dunning_restrict_days: int = Field(
        default=10, ge=0, le=3650, description="then nothing more can be ordered or bought; 0: never"
    )
    dunning_suspend_days: int = Field(
        default=20, ge=0, le=3650, description="then nothing more is served; 0: never"
    )
    dunning_close_days: int = Field(
        default=0, ge=0, le=3650, description="then the subscriber is closed; 0: never"
    )
