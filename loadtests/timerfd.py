"""A timer that gevent waits for as an I/O event, as fine as the kernel's clock.

libev's own timers are only as fine as epoll's millisecond.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from gevent.hub import get_hub

_CLOCK_MONOTONIC = 1  # time.perf_counter() reads it too, on Linux
_TFD_ABSTIME = 1


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2))


class Timer:
    """An absolute monotonic timer as a file descriptor (Python has one from 3.13 on)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._ready = get_hub().loop.io(self.fd, 1)

    def wait_until(self, when: float) -> None:
        """Sleep until ``perf_counter() == when`` without blocking other greenlets."""
        value = (ctypes.c_long * 2)(int(when), max(1, int(when % 1 * 1e9)))
        spec = _TimerSpec((ctypes.c_long * 2)(0, 0), value)
        self._libc.timerfd_settime(self.fd, _TFD_ABSTIME, ctypes.byref(spec), None)
        get_hub().wait(self._ready)
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        """Give the descriptor back."""
        self._ready.close()
        os.close(self.fd)
