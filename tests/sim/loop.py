"""An event loop whose time is the seed's: it never waits, it jumps to the next timer. The same seed, the same run."""

import asyncio
import selectors


class Deadlock(Exception):
    """Everybody waits for somebody, and no timer will ever wake anybody."""


class _NeverReady(selectors.BaseSelector):
    def __init__(self, loop):
        self._loop = loop
        self._keys = {}

    def register(self, fileobj, events, data=None):
        key = selectors.SelectorKey(
            fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data
        )
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj):
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def get_map(self):
        return self._keys

    def select(self, timeout=None):
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self._loop.now_s += timeout
        return []


class SimLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.now_s = 1000.0
        super().__init__(_NeverReady(self))

    def time(self):
        return self.now_s


class SimClock:
    """The hosts' clock: each may be off by a constant, none ever jumps back."""

    def __init__(self, loop, offset_s=0.0):
        self._loop = loop
        self._offset_s = offset_s

    def boot_ns(self):
        return int((self._loop.now_s + self._offset_s) * 1e9)
