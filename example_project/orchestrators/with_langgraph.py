"""LangGraph: a graph that waits for people between its steps, with its threads in a memory.

python manage.py shell -c "
from langgraph.types import Command
from example_project.orchestrators.with_langgraph import advance
print(advance('thread-1', {'order': 'order-5'})['__interrupt__'], advance('thread-1', Command(resume='yes')))"
"""

from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from example_project.orchestrators.langgraph_saver import MachineMemorySaver
from machine_memory import memory


class Order(TypedDict, total=False):
    order: str
    checked: bool
    status: str


def check(state: Order) -> Order:
    return {"checked": True}


def approve(state: Order) -> Order:
    answer = interrupt(f"Ship {state['order']}?")
    return {"status": "approved" if answer == "yes" else "declined"}


def ship(state: Order) -> Order:
    return {"status": "shipped"} if state["status"] == "approved" else {}


saver = MachineMemorySaver(memory)
_builder = StateGraph(Order)
_builder.add_sequence([check, approve, ship])
_builder.add_edge(START, "check")
graph = _builder.compile(checkpointer=saver)


def advance(thread_id: str, told: Any, *, ttl: float = 30) -> dict[str, Any]:
    """Go on with a thread until it is done or waits for people, and return its state.

    ``told``: the state to begin with, or a ``Command``. Raises ``LockDenied`` where another worker runs this thread,
    ``LockLost`` where one took over meanwhile.
    """
    with saver.hold(thread_id, ttl=ttl) as config:
        # A step is saved before the next one begins, which a run that lost its thread does not come to.
        state: dict[str, Any] = graph.invoke(told, config, durability="sync")
        return state
