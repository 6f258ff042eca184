"""What runs inside a worker process: take a call, run it, send back what it gave. Imports nothing heavy.

A frame is eight bytes of length and that many bytes. A call is a pickled pair (function or None for the one before,
arguments), each pickled for itself. It is answered by two frames: one, empty, when the function is loaded and about to be
called, and one with its result.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import struct
import sys
import time
import traceback
from typing import Any, Literal

HEADER = struct.Struct("!Q")
Status = Literal["returned", "raised", "unloaded"]


def send(fd: int, data: bytes) -> None:
    """Write one frame."""
    view = memoryview(HEADER.pack(len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> bytes | None:
    """Read one frame; None when the other side is gone."""
    head = _exactly(fd, HEADER.size)
    return None if head is None else _exactly(fd, HEADER.unpack(head)[0])


def _exactly(fd: int, n: int) -> bytes | None:
    parts = []
    while n:
        data = os.read(fd, min(n, 1 << 20))
        if not data:
            return None
        parts.append(data)
        n -= len(data)
    return b"".join(parts)


def main(replies: int) -> None:
    """Serve calls from standard input until it closes.

    Args:
        replies: File descriptor to answer on.
    """
    calls = os.dup(0)
    os.set_inheritable(replies, False)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)  # an objective that reads its standard input finds it empty, and does not eat our calls
    os.close(nowhere)
    faulthandler.enable()  # a segmentation fault leaves a stack in the standard error
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    function: Any = None
    while (frame := receive(calls)) is not None:
        pickled, arguments = pickle.loads(frame)
        answer, function = _call(pickled, arguments, function, replies)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # an objective may have closed or replaced it
                continue
        send(replies, answer)
    os._exit(0)  # threads that an objective left behind do not keep a worker alive


def _call(pickled: bytes | None, arguments: bytes, function: Any, replies: int) -> tuple[bytes, Any]:
    try:
        if pickled is not None:
            function = pickle.loads(pickled)
        args, kwargs = pickle.loads(arguments)
    except BaseException as error:
        return _pack("unloaded", error, 0.0), None
    send(replies, b"")
    start = time.perf_counter()
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
        error.add_note("In the worker process:\n" + "".join(traceback.format_exception(type(error), error, trace)).rstrip())
        return _pack("raised", error, time.perf_counter() - start), function
    return _pack("returned", result, time.perf_counter() - start), function


def _pack(status: Status, payload: Any, seconds: float) -> bytes:
    """The answer's frame. What cannot be pickled is replaced by an error that says so."""
    try:
        try:
            body = pickle.dumps(payload)
        except Exception:
            import cloudpickle

            body = cloudpickle.dumps(payload)
    except Exception as error:
        from zoopt.evaluate.outcome import describe

        what = describe(payload) if isinstance(payload, BaseException) else f"a result of type {type(payload).__name__}"
        status = "raised" if status == "returned" else status
        body = pickle.dumps(RuntimeError(f"{what} (it cannot be sent between processes: {describe(error)})"))
    return pickle.dumps((status, body, seconds))
