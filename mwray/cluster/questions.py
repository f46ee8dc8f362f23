"""Where Ray Tune asks: a searcher (what next?), a stopper (enough?), a callback (who runs?). A session answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from mwray.cluster.session import Session
from mwray.storage import StorageError, read_whole

T = TypeVar("T")


class NotPickled:
    """Ray Tune pickles all that it is given into snapshots, which nobody reads: of these objects it gets nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (object, ())

    def __deepcopy__(self, memo: Any) -> Any:
        return self


def in_order(default: T) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Make of a storage error, which would tear Ray Tune down with all trials, an orderly stop of the search."""

    def decorate(method: Callable[..., T]) -> Callable[..., T]:
        @wraps(method)
        def guarded(self: Any, *given: Any, **named: Any) -> T:
            try:
                return method(self, *given, **named)
            except StorageError as error:
                self._session.storage_lost(error)
                return default

        return guarded

    return decorate


class TuneSearcher(NotPickled, Searcher):
    """Ray Tune's question what to run next."""

    def __init__(self, session: Session) -> None:
        super().__init__(metric=None, mode=None)
        self._session = session

    @in_order(Searcher.FINISHED)
    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        """The next trial's config."""
        return self._session.next(trial_id)

    @in_order(None)
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the end of a trial; of one that died, `TuneCallback` knows the reason."""
        if not error:
            self._session.ended(trial_id, result or {})

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: Ray wants one, and nothing is ever read back."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study's journal is what is restored from."""


class TuneStopper(NotPickled, Stopper):
    """Ray Tune's question whether to stop a trial, or all."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @in_order(True)
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Look at one trial's report."""
        return False if result.get("done") else self._session.reported(trial_id, result)

    def stop_all(self) -> bool:
        """Look at the whole search."""
        return self._session.stopping


class TuneCallback(NotPickled, Callback):
    """Ray Tune's word of a trial's process."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Pass on the list of trials."""
        self._session.watch(trials)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Mark it as running."""
        self._session.started(trial.trial_id)

    @in_order(None)
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that its process died, and is started again."""
        self._session.recovered(trial.trial_id, _death(trial.error_file))

    @in_order(None)
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that its process died for good."""
        path = trial.error_file
        reason = _death(path)
        self._session.died(trial.trial_id, f"{reason} (traceback: {path})" if path else reason)


def _death(path: str | None) -> str:
    """The last error in Ray's file on a trial, in one line."""
    text = ((path and read_whole(Path(path))) or b"").decode(errors="replace")
    found = re.findall(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Died|Left)\w*: .*)$", text, re.MULTILINE)
    return found[-1] if found else "its process died"
