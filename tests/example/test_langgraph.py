"""The checkpointer of LangGraph: as the library wants it, and for one writer of a thread alone."""

import operator
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph", reason="langgraph is not installed")

from langgraph.channels import DeltaChannel
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from example_project.orchestrators.langgraph_saver import MachineMemorySaver
from example_project.orchestrators.with_langgraph import graph
from machine_memory import LockDenied, LockLost, LockNotHeld, SimpleMachineMemory, memory
from tests.actor import Actor
from tests.conftest import Worker, asynchronous, databases, redis_servers
from tests.contract.stores import Store

STALLED = "tests.example.stalling.stalled"
CONFIG: Any = {"configurable": {"thread_id": "a"}}
kept = pytest.mark.parametrize(
    "store", ["simple", *databases("postgresql", forms=("",)), redis_servers()[0]], indirect=True
)
on_sqlite = pytest.mark.parametrize("shared_store", databases("sqlite", forms=("",)), indirect=True)


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


class Deltas(TypedDict):
    log: Annotated[list[str], DeltaChannel(lambda log, new: [*log, *(text for texts in new for text in texts)])]


def built(saver: MachineMemorySaver, *nodes: Any, kind: Any = Log) -> Any:
    """Return a graph whose nodes are all run at once."""
    builder = StateGraph(kind)
    for number, node in enumerate(nodes):
        builder.add_node(f"node {number}", node)
        builder.add_edge(START, f"node {number}")
    return builder.compile(checkpointer=saver)


def note(text: str) -> Any:
    return lambda state: {"log": [text]}


def ask(state: Any) -> Any:
    return {"log": [interrupt("well?")]}


@on_sqlite
def test_a_thread_is_run_by_one_process_after_the_other(shared_store: Store) -> None:
    def told(answer: str) -> tuple[str, ...]:
        return "run", "tests.example.stalling.answer_graph", thread, answer

    def status() -> Any:
        return graph.get_state({"configurable": {"thread_id": thread}}).values["status"]

    with Actor("default") as one, Actor("default") as other:
        thread = "interrupted"
        one.tell(*told(""))
        other.tell("read", "warm up")
        assert one.answer() == ["Ship 1?"]
        assert other.answer() is None
        assert other(*told("yes")) == "shipped"

        thread = "of a zombie"
        other(*told(""))
        one.tell("run", STALLED, *told("yes")[1:])
        one.wait_until_stopped()
        assert other(*told("no")) == "LockDenied"
        shared_store.expire(f"thread:{thread}")
        assert other(*told("no")) == "declined"
        one.resume()
        assert one.answer() == "LockLost"
        assert status() == "declined"

        thread = "of the dead"
        other(*told(""))
        one.tell("run", STALLED, *told("yes")[1:])
        one.wait_until_stopped()
        one.kill()
        shared_store.expire(f"thread:{thread}")
        assert other(*told("yes")) == "shipped"
        assert memory.holder(f"thread:{thread}") is None


@kept
class TestSaver:
    @pytest.fixture
    def saver(self, store: Store) -> MachineMemorySaver:
        return MachineMemorySaver(store.memory)

    @asynchronous
    async def test_it_is_as_langgraph_wants_it(self, store: Store) -> None:
        @checkpointer_test(name="machine_memory")
        async def of_a_memory() -> AsyncIterator[MachineMemorySaver]:
            async for record in store.memory.afind():
                await store.memory.acleanup(record.id)
            yield MachineMemorySaver(store.memory)

        report = await validate(of_a_memory)
        assert [failure for result in report.results.values() for failure in result.failures or []] == []
        assert report.passed_all_base()

    def test_nodes_that_are_done_at_once_are_all_saved(self, saver: MachineMemorySaver) -> None:
        together, runs = threading.Barrier(4), []

        def noting(text: str) -> Any:
            def node(state: Any) -> Any:
                runs.append(text)
                together.wait(20)
                return {"log": [text]}

            return node

        graph = built(saver, ask, *map(noting, "bcde"))
        with saver.hold("a") as config:
            graph.invoke({"log": ["a"]}, config)
        with saver.hold("a") as config:
            state = graph.invoke(Command(resume="f"), config)
        assert state["log"] == ["a", "f", "b", "c", "d", "e"]
        assert sorted(runs) == ["b", "c", "d", "e"], "what was saved is not done again"

    @asynchronous
    async def test_a_task_runs_it_as_well(self, store: Store) -> None:
        saver = MachineMemorySaver(store.memory)
        graph = built(saver, ask, note("b"))
        async with saver.ahold("a") as config:
            asked = await graph.ainvoke({"log": ["a"]}, config)
            with pytest.raises(LockDenied):
                async with saver.ahold("a"):
                    pass
        async with saver.ahold("a") as config:
            state = await graph.ainvoke(Command(resume="c"), config)
        assert [one.value for one in asked["__interrupt__"]] == ["well?"]
        assert state["log"] == ["a", "c", "b"]

    def test_a_run_that_loses_its_thread_is_refused(self, store: Store, saver: MachineMemorySaver) -> None:
        def taken_over(state: Any) -> Any:
            store.memory.force_unlock("thread:a")
            with Worker(store.memory).lease("thread:a", wait=20) as lease:  # Its input is being saved.
                lease.commit({"checkpoints": {}})
            return {"log": ["too late"]}

        with pytest.raises(LockLost), saver.hold("a") as config:
            built(saver, taken_over).invoke({"log": []}, config)
        assert store.memory.read("thread:a") == {"checkpoints": {}}


def new_saver(**options: Any) -> MachineMemorySaver:
    return MachineMemorySaver(SimpleMachineMemory(), **options)


@pytest.mark.parametrize("require_lease", [False, True])
def test_who_holds_nothing_is_refused(require_lease: bool) -> None:
    memory = SimpleMachineMemory(require_lease=require_lease)
    graph = built(MachineMemorySaver(memory), note("b"))
    if not require_lease:
        Worker(memory).lock("thread:a")
    with pytest.raises(LockNotHeld):
        graph.invoke({"log": ["a"]}, CONFIG)
    assert memory.read("thread:a") is None


def test_the_latest_checkpoints_stay() -> None:
    saver = new_saver(keep=3)
    graph = built(saver, ask)
    for number in range(5):
        with saver.hold("a") as config:
            graph.invoke({"log": ["a"]}, config)
            state = graph.invoke(Command(resume=str(number)), config)
    assert state["log"] == ["a", "0", "a", "1", "a", "2", "a", "3", "a", "4"]
    assert [one.values["log"][-1] for one in graph.get_state_history(CONFIG)] == ["4", "a", "3"]


def test_all_stay_where_channels_store_deltas() -> None:
    saver = new_saver(keep=3)
    graph = built(saver, note("b"), kind=Deltas)
    for _ in range(5):
        with saver.hold("a") as config:
            state = graph.invoke({"log": ["a"]}, config)
    assert state["log"] == ["a", "b"] * 5
    assert graph.get_state(CONFIG).values["log"] == ["a", "b"] * 5


def test_runs_of_subgraphs_go_with_what_they_began_from() -> None:
    saver = new_saver(keep=3)
    inner = StateGraph(Log)
    inner.add_node("ask", ask)
    inner.add_edge(START, "ask")
    graph = built(saver, inner.compile())
    asked = []
    for number in range(4):
        with saver.hold("a") as config:
            asked.append(graph.invoke({"log": ["a"]}, config)["__interrupt__"][0].value)
            assert graph.get_state(CONFIG, subgraphs=True).tasks[0].state is not None
            state = graph.invoke(Command(resume=str(number)), config)
    assert asked == ["well?"] * 4
    assert state["log"][-1] == "3"
    thread = (saver.memory.read("thread:a") or {})["checkpoints"]
    assert len(thread) == 2, "the thread, and the latest run of the subgraph"


def test_a_thread_can_go_on_from_an_earlier_checkpoint() -> None:
    saver = new_saver()
    graph = built(saver, ask)
    with saver.hold("a") as config:
        graph.invoke({"log": ["a"]}, config)
        (asking,) = [one for one in graph.get_state_history(CONFIG) if one.next == ("node 0",)]
        assert graph.invoke(Command(resume="b"), config)["log"] == ["a", "b"]
        earlier = {"configurable": {**asking.config["configurable"], **config["configurable"]}}
        changed = graph.update_state(earlier, {"log": ["changed"]}, as_node="__start__")
        assert graph.invoke(Command(resume="c"), changed)["log"][-1] == "c"
    assert [one.metadata["source"] for one in graph.get_state_history(CONFIG, limit=2)] == ["loop", "update"]


def test_a_thread_that_is_deleted_begins_anew() -> None:
    saver = new_saver()
    graph = built(saver, note("b"))
    graph.invoke({"log": ["a"]}, CONFIG)
    saver.delete_thread("a")
    assert graph.get_state(CONFIG).values == {}
    with saver.hold("a"), pytest.raises(LockNotHeld):
        Worker(saver.memory).cleanup("thread:a")
