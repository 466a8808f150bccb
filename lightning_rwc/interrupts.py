# SPDX-License-Identifier: Apache-2.0
"""Signals, held back while something must not be left half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# What a terminal, a cluster or a timer sends. To ask for the handler of every signal takes longer than a measurement.
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGCONT", "SIGALRM", "SIGBREAK")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back every signal that Python handles until the end of the block, but let a second Ctrl-C through.

    Ctrl-C raises an exception wherever it finds the program. Lightning's handler for a signal of SLURM saves a
    checkpoint there. Neither may see a state that is half of one measurement and half of another.

    """
    # Python handles signals in the main thread only.
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
        # Ctrl-C last: it raises.
        for number, frame in sorted(held, key=lambda one: one[0] == signal.SIGINT):
            handlers[number](number, frame)
