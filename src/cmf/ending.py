"""How this process ends, as far as it can be told from inside: it returned, an exception or a signal ended it, it left.

Knows the interpreter, signals and the C library's exit. Refuses to know what a run or a journal is. Nothing of the
program's is patched: neither `sys.exit` nor `sys.excepthook`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGXCPU)
"""Signals that schedulers, terminals and people end a process with, and that end it unless somebody handles them."""

_SIGNAL_SECONDS = 5.0
_UNBUFFERED = 2
_CAUGHT = re.compile(r"^Sig(?:Cgt|Ign):\s*([0-9a-f]+)$", re.MULTILINE)


class Program:
    """The program that this process runs: what its outermost frame shows of how it ended.

    Make one while the program runs, and ask it when the interpreter ends.
    """

    def __init__(self) -> None:
        main = threading.main_thread().ident
        frame = sys._current_frames().get(main) if main is not None else None  # noqa: SLF001  # no public way
        while frame is not None and frame.f_back is not None:
            frame = frame.f_back
        self._outermost: FrameType | None = frame

    def error(self) -> BaseException | None:
        """Return the exception that nothing caught, if one ended the program.

        Python keeps it in `sys.last_value`, where a debugger, a notebook or a test runner puts what it did catch: only
        what left the outermost frame ended the program.
        """
        found: Any = getattr(sys, "last_value", None)
        trace: Any = getattr(sys, "last_traceback", None)
        if not isinstance(found, BaseException) or trace is None or self._outermost is None:
            return None
        return found if trace.tb_frame is self._outermost else None

    def returned(self) -> bool:
        """Tell whether the program ran to its end: False if it was left by `SystemExit`, or if that isn't known.

        `raise SystemExit`, `exit()` and `sys.exit()` leave no other trace: the interpreter has taken the exception and
        its code. But a frame goes on showing the last instruction that it carried out.
        """
        frame = self._outermost
        if frame is None or hasattr(sys, "ps1"):  # at a prompt each statement is a program of its own
            return False
        from opcode import opname

        code = frame.f_code.co_code
        return 0 <= frame.f_lasti < len(code) and opname[code[frame.f_lasti]].startswith("RETURN_")


def write_exit_code(handle: int) -> bool:
    """Have the C library append the exit code, one byte, to an open file, when it ends this process; True if it will.

    Python tells nobody the code that it ends with; glibc's ``on_exit`` does. The handle is the C library's from then
    on. Nothing is written if a signal or `os._exit` ends the process.
    """
    try:
        import ctypes

        library = ctypes.CDLL(None)
        library.fdopen.restype = ctypes.c_void_p
        library.fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]
        library.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        library.on_exit.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        file = library.fdopen(handle, b"a")
        if not file:
            return False
        library.setvbuf(file, None, _UNBUFFERED, 0)
        # on_exit calls function(status, argument), and fputc(status, file) writes the status modulo 256: what a
        # parent sees of it too. No Python is left to run at that time.
        return bool(library.on_exit(ctypes.cast(library.fputc, ctypes.c_void_p), file) == 0)
    except (ImportError, OSError, AttributeError):  # another C library, or a Python without ctypes
        return False


def start_thread(target: Callable[[], None], *, name: str) -> threading.Thread:
    """Start a thread of ours that leaves the signals that end a process to the main thread, and return it.

    Given to another one, a signal would not wake the main thread, where Python runs the handlers, out of a sleep. The
    new thread inherits the mask: if it set its own, one that comes just before would still be given to it. Raises
    `RuntimeError` if no thread can be had.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread


class Signals:
    """Hears of the signals that would end this process, while it is asked to; then they end it as before.

    ``heard`` is called with the signal's number, in the main thread or in one that the main thread waits for, for
    some seconds at most. A signal that the program handles or ignores itself is left alone.
    """

    def __init__(self, heard: Callable[[int], None], is_owned: Callable[[], bool]) -> None:
        self._heard = heard
        self._is_owned = is_owned
        self._caught: list[signal.Signals] = []
        self._told: set[int] = set()

    def catch(self) -> None:
        """Begin to listen; nothing happens outside the main thread, where Python sets no handlers."""
        if self._caught or threading.current_thread() is not threading.main_thread():
            return
        taken = _handled_elsewhere()
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL and not taken >> (number - 1) & 1:
                with contextlib.suppress(ValueError, OSError):
                    signal.signal(number, self._handle)
                    self._caught.append(number)

    def release(self) -> None:
        """Put back what was there, but for what the program has set since."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._caught:
            if signal.getsignal(number) == self._handle:
                with contextlib.suppress(ValueError, OSError):
                    signal.signal(number, signal.SIG_DFL)
        self._caught = []

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number not in self._told:
            self._told.add(number)
            with contextlib.suppress(Exception):  # no thread can be had: the signal ends the process all the same
                thread = start_thread(lambda: self._tell(number), name="cmf-signal")
                if self._is_owned():
                    return  # the interrupted write ends first, with the rows that it has in hand; then `_tell` kills
                # A disk that does not answer must not keep the process: it waits for a thread, not for the disk.
                thread.join(_SIGNAL_SECONDS)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _tell(self, number: int) -> None:
        """Have it recorded, within some seconds; then send the signal again, which now ends the process."""
        heard = start_thread(lambda: self._heard(number), name="cmf-killed")
        heard.join(_SIGNAL_SECONDS)
        os.kill(os.getpid(), number)


def _handled_elsewhere() -> int:
    """Return the mask of signals that something below Python (faulthandler, MPI) handles, as far as /proc tells."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            masks = _CAUGHT.findall(file.read())
    except OSError:
        return 0
    found = 0
    for mask in masks:
        found |= int(mask, 16)
    return found
