"""Cycles per second with several processes: on machines of their own, and all on one."""

from statistics import median

from benchmarks import databases, stores
from benchmarks.crew import Crew, Task
from benchmarks.report import Cell, Section, Table
from benchmarks.run import Run

PROCESSES = (1, 2, 4, 8)
ROUNDS = 3
SHARE = 0.2
"""Of the usual time that a round of one task takes."""
IDS = tuple(databases.machine_id(number) for number in range(1, max(PROCESSES) + 1))
SCENARIOS = {"a machine each": IDS, "all on one machine": IDS[:1]}
MILLISECONDS = 1_000

Key = tuple[str, str, int]


def measured(run: Run) -> Section:
    names = stores.available()
    taken: dict[Key, list[list[list[float]]]] = {}
    with stores.scratch(*names):
        for name in names:
            stores.fill(name, len(IDS))
        run.says("throughput: the processes start")
        with Crew(PROCESSES) as crew:
            for number in range(ROUNDS):
                run.says(f"throughput, round {number + 1} of {ROUNDS}")
                for scenario, ids in SCENARIOS.items():
                    for processes in PROCESSES:
                        for name in names:
                            task = Task(name, processes, ids, run.seconds * SHARE)
                            taken.setdefault((name, scenario, processes), []).append(crew.do(task))
        tables = [_table(name, taken, run.seconds * SHARE) for name in names]
    return Section(
        "Throughput",
        "Processes that start at one moment; the stores take turns. On one machine, a process that is denied tries"
        " again after a random pause, up to a quarter of a second. Ratios are against one process. Lost updates: cycles"
        " that were accepted and have left no trace in the state.",
        tables=tables,
    )


def _table(name: str, taken: dict[Key, list[list[list[float]]]], seconds: float) -> Table:
    rows: list[list[Cell]] = []
    for scenario in SCENARIOS:
        alone = _counts(taken[name, scenario, 1])
        for processes in PROCESSES:
            rounds = taken[name, scenario, processes]
            times = sorted(time * MILLISECONDS for crew in rounds for cycles in crew for time in cycles)
            counts = _counts(rounds)
            ratio = median(count / max(1, of_one) for count, of_one in zip(counts, alone, strict=True))
            p99 = times[int(len(times) * 0.99)]
            rows.append([scenario, processes, median(counts) / seconds, ratio, median(times), p99])
    columns = ["", "processes", "cycles per second", "ratio", "p50, ms", "p99, ms"]
    return Table(f"{stores.NAMES[name]}: {_lost(name, taken)} lost updates", columns, rows)


def _counts(rounds: list[list[list[float]]]) -> list[int]:
    """Return the cycles of all processes, for each round."""
    return [sum(map(len, crew)) for crew in rounds]


def _lost(name: str, taken: dict[Key, list[list[list[float]]]]) -> int:
    memory = stores.memory(name)
    states = [memory.read(id) for id in IDS]
    counted: int = sum(state["revision"] - 1 for state in states if state)
    accepted = sum(len(cycles) for key, rounds in taken.items() if key[0] == name for crew in rounds for cycles in crew)
    return accepted - counted
