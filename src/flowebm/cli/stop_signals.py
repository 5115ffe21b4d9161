"""Ctrl-C and `kill`: the first asks a run to stop where it can go on from, the second ends it."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: What Ctrl-C sends, and what `kill`, `timeout` and batch systems send.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal has ended the command.

    Args:
        message: What the user is told.
        number: The signal's number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class StopSignals:
    """What has been asked for by signals, while `stop_signals` listens.

    Attributes:
        waits: Whether the first signal waits for `stop_if_asked`; otherwise it stops the
            command where it is.
        asked: The number of the first signal that waits, or `None`.
    """

    def __init__(self):
        self.waits = False
        self.asked: int | None = None
        self._received = 0

    def stop_if_asked(self) -> None:
        """Stop here, if a signal has asked for it.

        Raises:
            Stopped: If it has.
        """
        if self.asked is not None:
            raise Stopped("Interrupted.", self.asked)

    def handle(self, number: int, frame: object) -> None:
        """Python's handler, called in the main thread between two steps of the interpreter."""
        if not self.waits:
            raise Stopped("Interrupted.", number)
        self.asked = self.asked or number

    def watch(self, signals: socket.socket) -> None:
        """Tell of signals as they come, also while the main thread is in a compiled program.

        Args:
            signals: Gives a byte for each signal, its number, and ends when nobody listens.
        """
        while byte := signals.recv(1):
            self._received += 1
            if self._received > 1:
                _say("Stopped at once; what was saved before is whole.")
                os._exit(128 + byte[0])
            if self.waits:
                _say(
                    "Stopping when the present block of iterations is done and saved; once more "
                    "stops at once."
                )


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Listen to Ctrl-C and SIGTERM; what was listening before is put back at the end.

    A signal that the process was told to ignore stays ignored. Outside of the main thread,
    where Python handles no signals, nothing changes.

    Yields:
        What has been asked for.
    """
    state = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    wakeup = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, state.handle)
    watcher = threading.Thread(target=state.watch, args=(theirs,), daemon=True)
    watcher.start()
    try:
        yield state
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(wakeup)
        ours.close()
        watcher.join()
        theirs.close()


def _say(sentence: str) -> None:
    # Not by print: the main thread may hold the stream's lock, or a bar hide the cursor.
    show_cursor = "\x1b[?25h" if sys.__stderr__ is not None and os.isatty(2) else ""
    os.write(2, f"{show_cursor}\nflowebm: {sentence}\n".encode())
