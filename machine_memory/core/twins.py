"""The async twins of what a memory does: each hops to a thread and back as seldom as can be."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def twin(verb: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return a verb for coroutines: it hops to a thread and back once."""

    @wraps(verb)
    async def twin(memory: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await memory.steps.hop(getattr(memory, verb.__name__), *args, **kwargs)  # type: ignore[no-any-return]

    return _named(twin, verb)


def twin_of_listing(
    verb: Callable[Concatenate[Any, P], Iterator[T]],
) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """Return a listing for coroutines: it hops to a thread and back once for each batch."""

    @wraps(verb)
    def twin(memory: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return _each(memory, getattr(memory, verb.__name__)(*args, **kwargs))

    return _named(twin, verb)


async def _each(memory: Any, found: Iterator[T]) -> AsyncIterator[T]:
    while batch := await memory.steps.hop(lambda: list(islice(found, memory.store.batch))):
        for one in batch:
            yield one


def _named(twin: T, verb: Callable[..., object]) -> T:
    twin.__name__, twin.__doc__ = f"a{verb.__name__}", f"See ``{verb.__name__}``."  # type: ignore[attr-defined]
    return twin
