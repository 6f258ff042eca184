"""Any executor of ``concurrent.futures`` as evaluator: threads, one's own process pool, Dask, MPI, a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from zoopt.errors import ConfigError, ObjectiveError
from zoopt.evaluate._objective import Objective, dumps
from zoopt.evaluate.evaluator import TrialLike, check_signature, duration
from zoopt.evaluate.outcome import Outcome, describe


class ExecutorDied(ObjectiveError):
    """A process of a user's executor ended, and with it the executor. Which of the calls it held was the cause is not known."""


class OnExecutor:
    """Computes a function of one trial on an executor of the user's, which is neither started nor shut down here.

    The function travels by cloudpickle where the executor pickles it, so that lambdas and functions of a notebook work.

    Args:
        function: Called as ``function(**params)``.
        executor: Where it is called.
        timeout: For one evaluation, from the moment it is submitted, seconds or a text such as ``"10m"``. An executor
            cannot be told to stop a running call: the trial is failed, but the call goes on in its place until it returns.
    """

    batched = False

    def __init__(self, function: Callable[..., Any], executor: Executor, *, timeout: float | str | None = None) -> None:
        if not callable(function):
            raise ConfigError(f"{function!r} is not an objective; a function of one trial was expected.")
        if not callable(getattr(executor, "submit", None)):
            raise ConfigError(f"executor = {executor!r}: a concurrent.futures.Executor was expected, such as ThreadPoolExecutor(4).")
        self.function = function
        self.executor = executor
        self.timeout = duration(timeout, "timeout")
        self._objective = Objective(function)
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()

    def check(self, parameters: Sequence[str]) -> None:
        """Refuses a function that does not take these parameters (``ConfigError``)."""
        check_signature(self.function, parameters)

    def start(self, parallel: int) -> None:
        """Nothing to start: the executor is the user's, and so is how many calls it runs at once.

        Raises:
            ConfigError: The function cannot be pickled, and the executor runs processes.
        """
        self._objective = Objective(self.function)
        if isinstance(self.executor, ProcessPoolExecutor):
            dumps(self._objective)

    def submit(self, trial: TrialLike) -> Future[Outcome]:
        """Compute one trial. Where a process of the executor dies, which ends all that it held, the future raises ``ObjectiveError``.

        Raises:
            ObjectiveError: The executor takes no calls: it was shut down, or one of its processes died and broke it.
        """
        try:
            inner: Future[Any] = self.executor.submit(self._objective, trial.params)
        except BrokenProcessPool as error:
            raise self._died() from error
        except RuntimeError as error:
            raise ObjectiveError(
                f"the executor {self.executor!r} takes no more evaluations ({describe(error)}); give a new one."
            ) from error
        outcome: Future[Outcome] = Future()
        outcome.set_running_or_notify_cancel()
        with self._lock:
            self._running.add(inner)
        timer = None
        if self.timeout is not None:
            timer = threading.Timer(self.timeout, self._expire, (inner, outcome))
            timer.daemon = True
            timer.start()

        def finish(done: Future[Any]) -> None:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._running.discard(done)
            _set(outcome, self._read(done))

        inner.add_done_callback(finish)
        return outcome

    def _expire(self, inner: Future[Any], outcome: Future[Outcome]) -> None:
        reason = f"timed out after {self.timeout:g} s (its executor cannot stop it: it may still be running)"
        _set(outcome, Outcome.failed(reason, seconds=self.timeout or 0.0))
        inner.cancel()

    def _read(self, done: Future[Any]) -> Outcome | BaseException:
        if done.cancelled():
            return CancelledError()
        error = done.exception()
        if isinstance(error, BrokenProcessPool):
            return self._died()
        if isinstance(error, ConfigError):  # the function could not be sent, and never will be; what it raises itself is an Outcome
            return error
        return Outcome.of(done.result()) if error is None else Outcome.failed(describe(error))

    def _died(self) -> ExecutorDied:
        return ExecutorDied(
            f"a process of the executor {self.executor!r} died, and with it every evaluation that it held; give a new one. "
            f"The trials are pending: one that ends its process each time is given up after the third."
        )

    def close(self) -> None:
        """Cancel what has not begun. What runs goes on to its end in the executor."""
        with self._lock:
            running = list(self._running)
        for future in running:
            future.cancel()


def _set(outcome: Future[Outcome], result: Outcome | BaseException) -> None:
    try:
        if isinstance(result, BaseException):
            outcome.set_exception(result)
        else:
            outcome.set_result(result)
    except InvalidStateError:  # timed out before
        pass
