"""What a test has other processes do: stall at the worst moment, and work off tasks."""

import signal
import threading
from typing import Any
from unittest.mock import patch

from django.core.management import call_command
from django.utils.module_loading import import_string

from machine_memory.core.failures import Step, Steps


def stalled(path: str, *args: Any) -> Any:
    """Call a function in a process that is paused before it writes for the first time."""
    steps = Steps.__call__

    def stopping(self: Steps, name: str, *args: Any, **kwargs: Any) -> Step:
        if name in ("write", "commit"):
            patched.stop()
            # To this thread, not to whichever of the process: it is to stop here, and not amid what comes next.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return steps(self, name, *args, **kwargs)

    patched = patch.object(Steps, "__call__", stopping)
    patched.start()
    return import_string(path)(*args)


def work_off() -> None:
    """Run the tasks of Django that wait, and those that they enqueue."""
    options = ["--batch", "--interval", "0", "--no-startup-delay", "--no-reload"]
    call_command("db_worker", *options, verbosity=0)


def answer_graph(thread_id: str, answer: str) -> Any:
    """Begin a thread of the example with LangGraph, or go on; return what it asks, or its status."""
    from langgraph.types import Command

    from example_project.orchestrators.with_langgraph import advance

    state = advance(thread_id, Command(resume=answer) if answer else {"order": "1"})
    return [one.value for one in state["__interrupt__"]] if "__interrupt__" in state else state["status"]
