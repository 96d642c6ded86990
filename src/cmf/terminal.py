"""What a command writes, passed on at once as if nobody were between, and kept as far as one object should hold it.

The command keeps the terminal itself as its standard input and as the one that controls it, so that ctrl-C, ctrl-Z,
`fg` and `bg` are the shell's and the kernel's business as ever. Only where it writes stands a terminal of our own if
there was one (so it colours and wraps as it did), and a pipe if there was a pipe or a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import signal
import struct
import subprocess
import termios
import tty
from collections.abc import Iterator

HEAD_BYTES = 512 << 10
TAIL_BYTES = 512 << 10
READ_BYTES = 64 << 10
_SIZE = struct.Struct("HHHH")


class Kept:
    """The first and the last bytes of an output of any length. ``size`` counts all of them."""

    def __init__(self) -> None:
        self.size = 0
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        """Take in what came next."""
        self.size += len(data)
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[max(room, 0) :]
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def take(self) -> bytes:
        """Return the whole, or its head and its tail with a line between them that says how much is left out."""
        tail = bytes(self._tail[-TAIL_BYTES:])
        left_out = self.size - len(self._head) - len(tail)
        between = b"\n[... %d bytes are left out here ...]\n" % left_out if left_out else b""
        return bytes(self._head) + between + tail


class Streams:
    """The standard output and error of one command: hand ``outputs`` to it, then `copy` until it ends."""

    def __init__(self) -> None:
        self.kept = Kept()
        self._targets: dict[int, int] = {}
        self._slaves: list[int] = []
        self._master = -1
        self._slave = -1
        out, err = (self._terminal(target) if os.isatty(target) else self._pipe(target) for target in (1, 2))
        self.outputs = (out, err)

    def _pipe(self, target: int) -> int:
        source, sink = os.pipe()
        self._targets[source] = target
        self._slaves.append(sink)
        return sink

    def _terminal(self, target: int) -> int:
        """Return a terminal in front of ours; one stands for both outputs, so that their order stays."""
        if self._master < 0:
            self._master, self._slave = os.openpty()
            tty.setraw(self._slave)  # what it writes is passed on as it is: the terminal behind translates
            self._targets[self._master] = target
            self._slaves.append(self._slave)
            self._resize()
        return self._slave

    def _resize(self) -> None:
        """Give our terminal the size of the one behind it."""
        if self._master not in self._targets:
            return
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(self._targets[self._master], termios.TIOCGWINSZ, bytes(_SIZE.size))
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def copy(self, child: subprocess.Popen[bytes]) -> int:
        """Pass on what the command writes until it has ended; return its exit code as `Popen` gives it.

        What it left running in the background may write on, to nobody: it is not waited for.
        """
        for slave in self._slaves:
            os.close(slave)
        with self._resizing(child), selectors.DefaultSelector() as selector:
            for source in self._targets:
                os.set_blocking(source, False)
                selector.register(source, selectors.EVENT_READ)
            ended = os.pidfd_open(child.pid)
            selector.register(ended, selectors.EVENT_READ)
            try:
                while child.poll() is None:
                    for key, _ in selector.select():
                        if key.fd != ended:
                            self._pass_on(key.fd, selector)
                for source in list(self._targets):
                    while source in self._targets and self._pass_on(source, selector):
                        pass
            finally:
                os.close(ended)
                for source in self._targets:
                    os.close(source)
        return child.returncode

    def abandon(self) -> None:
        """Close everything: the command could not be started."""
        for handle in (*self._slaves, *self._targets):
            os.close(handle)

    def _pass_on(self, source: int, selector: selectors.BaseSelector) -> bool:
        """Pass on what is there; return whether there was anything. A source that is at its end is dropped."""
        try:
            data = os.read(source, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that nobody writes to any more
                raise
            data = b""
        if data:
            self.kept.add(data)
            if _write(self._targets[source], data):
                return True
        # The end; or whoever read our output is gone, and the command shall learn it as it would have. It is forgotten
        # with its closing: the next file that another thread opens may have its number.
        selector.unregister(source)
        del self._targets[source]
        os.close(source)
        return False

    @contextlib.contextmanager
    def _resizing(self, child: subprocess.Popen[bytes]) -> Iterator[None]:
        """Follow the terminal's size: the kernel tells us and the command at once, and it may have asked too early."""
        if self._master < 0:
            yield
            return

        def resized(_: int, __: object) -> None:
            self._resize()
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGWINCH)

        before = signal.signal(signal.SIGWINCH, resized)
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before if before is not None else signal.SIG_DFL)


def _write(target: int, data: bytes) -> bool:
    """Write all of it; return False if nobody reads it any more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            with selectors.DefaultSelector() as waiting:
                waiting.register(target, selectors.EVENT_WRITE)
                waiting.select()
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO):
                return False
            raise
    return True
