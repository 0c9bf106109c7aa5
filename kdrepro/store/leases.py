"""Who trains what: of several runs that share a store, one trains a network and the others wait for it.

A lease is a file beside the network, put there only if there is none. Its holder renews it. Whoever finds it unchanged
for `EXPIRES` seconds, by a clock of their own, takes it over; on the holder's own machine a process that has died
loses it at once. A lease only saves work: where one is lost (a machine asleep, a network cut in two), both train, and
the first to finish keeps its network.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from kdrepro.store.places import Place

EXPIRES = 60.0  # seconds
RENEWALS = 4  # within that time
LEASE = "lease.json"


def this_process() -> str:
    """An owner of leases that no other process has."""
    return f"{_machine()}, process {os.getpid()}"


def _machine() -> str:
    """This machine, or this container on it, within which process numbers mean something."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


class Leases:
    """What one run holds in a place.

    owner: its name; a task that is tried again under the same name takes its leases back at once. expires: seconds.
    clock: seconds, never backwards.
    """

    def __init__(
        self,
        place: Place,
        owner: str = "",
        expires: float = EXPIRES,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.place, self.owner, self.expires, self.clock = place, owner or this_process(), expires, clock
        self._seen: dict[str, tuple[bytes, float]] = {}  # of others: what was read, and since when it is that
        self._held: set[str] = set()
        self._renewals = 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what is held; a killed process cannot, hence the end of a lease."""
        self._closed.set()
        for key in list(self._held):
            self.release(key)

    def take(self, key: str) -> bool:
        """Whether this run may train the network of a key now. Raises OSError when no lease can be written."""
        name = f"{key}/{LEASE}"
        taken = self.place.create(name, self._content()) or self._taken_over(key, name)
        if taken:
            with self._lock:
                self._held.add(key)
            self._start()
        return taken

    def _taken_over(self, key: str, name: str) -> bool:
        """Whether a lease that is there has ended, or is this owner's own, and is now this process's."""
        content = self.place.read(name)
        if content is not None:
            about = parse(content)
            if about.get("owner") != self.owner and not _has_died(about) and not self._unchanged(key, content):
                return False
            self.place.remove(name)
        self._seen.pop(key, None)
        return self.place.create(name, self._content())

    def _unchanged(self, key: str, content: bytes) -> bool:
        """Whether another's lease has been like this for too long."""
        before, since = self._seen.get(key, (b"", 0.0))
        if before != content:
            since = self.clock()
            self._seen[key] = content, since
        return self.clock() - since >= self.expires

    def holder(self, key: str) -> str:
        """Who trains the network of a key; "" for nobody."""
        content = self.place.read(f"{key}/{LEASE}")
        return "" if content is None else str(parse(content).get("owner", "somebody"))

    def release(self, key: str) -> None:
        """Let others have it; what cannot be deleted expires."""
        with self._lock:
            if key not in self._held:
                return
            self._held.discard(key)
            with contextlib.suppress(OSError):
                self.place.remove(f"{key}/{LEASE}")

    def renew(self) -> None:
        """Show that the holder lives."""
        with self._lock:
            self._renewals += 1
            for key in self._held:
                try:
                    self.place.write(f"{key}/{LEASE}", self._content())
                except OSError:  # the next time, perhaps
                    continue

    def _content(self) -> bytes:
        about = {"owner": self.owner, "machine": _machine(), "process": os.getpid(), "renewed": self._renewals}
        return json.dumps(about).encode()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew_on, name="leases", daemon=True)
            self._thread.start()

    def _renew_on(self) -> None:
        while not self._closed.wait(self.expires / RENEWALS):
            self.renew()


def parse(content: bytes) -> dict[str, Any]:
    """What a lease says; nothing where it is damaged."""
    try:
        about = json.loads(content)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _has_died(about: dict[str, Any]) -> bool:
    """Whether a lease's holder was a process of this machine that is no longer there; unknown of other machines."""
    if about.get("machine") != _machine() or not isinstance(about.get("process"), int):
        return False
    try:
        os.kill(about["process"], 0)
    except OSError as error:  # another kind for another user's
        return isinstance(error, ProcessLookupError)
    return False
