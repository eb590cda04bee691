"""Listens for recalls: the ledger notifies hosts when another host waits for a grant that this one holds."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

import psycopg

from tokenworks.app.database.connections import connect
from tokenworks.kernel import TokenworksError

RETRY_S: Final = 1.0


class RecallListener(threading.Thread):
    """Calls `on_recall`, in this thread, for each notification. A notification only saves time: the poll finds every recall."""

    def __init__(self, url: str, on_recall: Callable[[], None]) -> None:
        super().__init__(name="listener", daemon=True)
        self._url = url
        self._on_recall = on_recall

    def run(self) -> None:
        while True:
            try:
                with contextlib.closing(connect(self._url)) as connection:
                    connection.execute("LISTEN tokenworks_recall")
                    for _ in connection.notifies():
                        self._on_recall()
            except (psycopg.Error, TokenworksError):
                time.sleep(RETRY_S)
