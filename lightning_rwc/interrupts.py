# SPDX-License-Identifier: Apache-2.0
"""Signals that wait until a block of code has run to its end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# The signals of terminals, clusters and timers. Asking for the handlers of all signals takes longer than a measurement.
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGCONT", "SIGALRM", "SIGBREAK")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay all signals that Python handles to the end of the block, except a second Ctrl-C.

    Ctrl-C raises an exception at whatever line the program has reached. Lightning's handler of SLURM's signal saves a
    checkpoint there. Neither may see a state that is half of one measurement and half of the next.

    """
    # Python handles signals only in the main thread.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    held: list[tuple[int, FrameType | None]] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and any(earlier == number for earlier, _ in held):
            held[:] = [one for one in held if one[0] != number]
            handlers[number](number, frame)
        held.append((number, frame))

    try:
        for number in handlers:
            signal.signal(number, hold)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # Ctrl-C comes last because it raises.
        for number, frame in sorted(held, key=lambda one: one[0] == signal.SIGINT):
            handlers[number](number, frame)
