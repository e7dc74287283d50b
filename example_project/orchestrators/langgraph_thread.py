"""A thread of LangGraph as the data of a machine: its checkpoints, by namespace and id."""

from collections.abc import Iterator
from typing import Any

from langgraph.checkpoint.base import writes_sort_key

Thread = dict[str, dict[str, Any]]
OF_A_RUN = ":"
"""Is in the namespace of a subgraph that remembers nothing of its other runs."""


def save(thread: Thread, ns: str, id: str, saved: dict[str, Any], *, keep: int) -> None:
    """Add a checkpoint, and forget all but the latest of its namespace, where they can do without the others."""
    space = thread.setdefault(ns, {})
    _entry(thread, ns, id).update(saved)
    kept = sorted(space)[-keep:]
    if any(space[id].get("is_delta") for id in kept):
        return
    for old in space.keys() - kept:
        del space[old]
    if ns == "":
        _forget_subgraphs(thread, kept[0])


def save_writes(thread: Thread, ns: str, id: str, task_id: str, writes: dict[int, list[Any]]) -> None:
    """Add what a task wrote, which stays; what is told of it, as an error, has a number below 0, and is replaced."""
    known = _entry(thread, ns, id)["writes"].setdefault(task_id, {})
    known.update({str(number): write for number, write in writes.items() if number < 0 or str(number) not in known})


def writes(saved: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield task, channel and value of what was written after a checkpoint, in LangGraph's order."""
    found = [
        (writes_sort_key(path, task, int(number)), channel, value)
        for task, of_task in saved["writes"].items()
        for number, (channel, value, path) in of_task.items()
    ]
    for (_, task, _), channel, value in sorted(found):
        yield task, channel, value


def checkpoints(thread: Thread, ns: str | None, id: str | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield namespace, id and what was saved: of one namespace or id, or all there are; the latest first."""
    for name in thread if ns is None else thread.keys() & {ns}:
        for known, saved in sorted(thread[name].items(), reverse=True):
            if "checkpoint" in saved and id in (None, "", known):
                yield name, known, saved


def _entry(thread: Thread, ns: str, id: str) -> dict[str, Any]:
    # What was written after a checkpoint may be saved before it.
    entry: dict[str, Any] = thread.setdefault(ns, {}).setdefault(id, {"writes": {}})
    return entry


def _forget_subgraphs(thread: Thread, oldest: str) -> None:
    """Forget the runs of subgraphs that began from a checkpoint that is gone."""
    for ns in [ns for ns in thread if OF_A_RUN in ns]:
        if all(saved.get("began_from", oldest) < oldest for saved in thread[ns].values()):
            del thread[ns]
