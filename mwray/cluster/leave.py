"""Whether this process is to leave: it got SIGTERM, or Ray says that its machine is about to be taken away.

A cloud warns of a spot machine's end between thirty seconds and two minutes before; Ray marks such a node as draining,
as it does with one whose `ray start` gets SIGTERM. The training loop asks after every step, writes what is missing,
and leaves; Ray starts the trial again elsewhere.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import ray

POLL_SECONDS = 5.0

_why: list[str] = []
_watched = threading.Lock()
_watcher: threading.Thread | None = None


def listen() -> None:
    """Take SIGTERM as a request to leave; to be called in the main thread of a process of Ray's.

    Ray's own handler ends the process where it stands.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: _why.append("SIGTERM"))


def asked() -> str | None:
    """Why this process is to leave, or None. Costs next to nothing."""
    global _watcher
    if _watcher is None:
        with _watched:
            if _watcher is None:
                _watcher = threading.Thread(target=_watch, name="mwray-leave", daemon=True)
                _watcher.start()
    return _why[0] if _why else None


def _watch() -> None:
    """Ask Ray whether this node is being drained, for as long as there is a Ray."""
    pause = threading.Event()
    while not _why and ray.is_initialized():
        if (why := draining()) is not None:
            _why.append(why)
        pause.wait(POLL_SECONDS)


def draining() -> str | None:
    """Whether this node is about to be taken away, as far as Ray offers it."""
    try:
        # What Ray Train's own watcher asks (2.60); Tune has no such question for a trial.
        nodes: dict[str, Any] = ray._private.state.state.get_draining_nodes()
        return "its machine is about to be taken away" if ray.get_runtime_context().get_node_id() in nodes else None
    except Exception:  # another version of Ray, or a head that is gone: the training goes on
        return None
