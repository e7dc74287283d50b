"""What is tried again: a read whose store failed for a moment, and a lock that somebody is ready to wait for."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import tenacity

from machine_memory.core import validation
from machine_memory.core.store import Store
from machine_memory.core.telemetry import Operation

P = ParamSpec("P")
T = TypeVar("T")


class Reads:
    """Repeats a read: up to so many attempts, with backoff, within so many seconds of waiting."""

    def __init__(self, store: Store, attempts: int, budget: float) -> None:
        self._failures = store.failures
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(validation.option(attempts, "READ_ATTEMPTS", int))
            | tenacity.stop_before_delay(validation.option(budget, "READ_BUDGET", float)),
            wait=tenacity.wait_exponential(multiplier=0.05) + tenacity.wait_random(0, 0.05),
            retry=tenacity.retry_if_exception(store.may_read_again),
            reraise=True,
        )

    def __call__(self, step: Operation, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except self._failures as failure:
            failures = [failure]

        def attempt() -> T:
            if failures:  # What was met already is the first attempt: to count that, too, would cost every read.
                raise failures.pop()
            return read(*args, **kwargs)

        try:
            return self._retrying(attempt)
        finally:
            step.retried(self._retrying.statistics["attempt_number"])


def waiting(wait: float | timedelta) -> dict[str, Any]:
    """Return how attempts to lock are repeated for ``wait`` seconds, the last at their end; empty: there is one."""
    seconds = validation.ttl(wait, "wait", least=0)
    if not seconds:
        return {}
    backoff = tenacity.wait_random_exponential(multiplier=0.02, max=0.25)
    return {
        "stop": tenacity.stop_after_delay(seconds),
        "wait": lambda state: max(0.0, min(backoff(state), seconds - (state.seconds_since_start or 0.0))),
        "retry": tenacity.retry_if_result(lambda granted: not granted),
        "retry_error_callback": lambda state: False,
    }
