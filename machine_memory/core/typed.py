"""States of a type of the caller's: converted at the border, and upgraded from the shapes that they had before."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Generic, Self

from machine_memory import exceptions as errors
from machine_memory.core.conversion import converter_of
from machine_memory.core.failures import Steps
from machine_memory.core.misfits import Misfit, must_be
from machine_memory.core.records import Record, Shown, State, Stored, Written
from machine_memory.core.store import Store, as_state
from machine_memory.core.validation import option, quoted

Upgrades = Mapping[int, Callable[[State], Mapping[str, Any]]]
"""What makes, of the state of a shape, that of the next; by the former."""
OLDEST = 1
"""The shape of a state that does not say."""


class Shape:
    """What states are read as and written from: a type, and the number of its shape with the way up to it."""

    def __init__(
        self, kind: Any, shape: int | None = None, upgrades: Upgrades | None = None, shape_key: Any = "shape"
    ) -> None:
        self._converter = converter_of(kind)
        self.name: str = kind.__name__
        self.number = None if shape is None else option(shape, "shape", int)
        self._upgrades = dict(upgrades or {})
        self._key: str = shape_key
        if not isinstance(shape_key, str) or not shape_key:
            raise errors.InvalidConfiguration(f"shape_key must be a str and not empty, not {quoted(shape_key)}.")
        wanted = range((self.number or OLDEST) - len(self._upgrades), self.number or OLDEST)
        if set(self._upgrades) != set(wanted) or wanted.start < OLDEST:
            raise errors.InvalidConfiguration(
                f"upgrades of {self.name} must lead to its shape ({self.number}) step by step, each by the shape that"
                f" it is for, as {{1: ..., 2: ...}} to shape 3; these are for {', '.join(map(quoted, self._upgrades))}."
            )

    def load(self, id: str, state: State) -> Any:
        """Return the stored state of a machine as its type. Raises ``WrongShape``."""
        if self.number is not None:
            state = self._upgraded(id, state, self.number)
        try:
            return self._converter.load(state)
        except Misfit as misfit:
            raise errors.WrongShape(
                f"The state of {quoted(id)} does not fit {self.name}: data{misfit}. Correct what is stored, or declare"
                " it as a shape of its own and upgrade it."
            ) from misfit.__cause__

    def dump(self, data: object) -> State:
        """Return what is stored of a state. Raises ``InvalidData``."""
        try:
            state: State = self._converter.dump(data)
        except Misfit as misfit:
            raise errors.InvalidData(f"data{misfit}. Nothing was changed.") from misfit.__cause__
        if self.number is None:
            return state
        if self._key in state:
            raise errors.InvalidData(
                f"data has the key {quoted(self._key)}, where the number of the shape of {self.name} is kept: give"
                " typed() another shape_key."
            )
        return {self._key: self.number, **state}

    def number_of(self, id: str, state: State) -> int:
        """Return the shape of a stored state that can be upgraded. Raises ``WrongShape``."""
        number = state.get(self._key, OLDEST)
        known, oldest = self.number or OLDEST, (self.number or OLDEST) - len(self._upgrades)
        if type(number) is not int or number < OLDEST:
            raise errors.WrongShape(
                f"The state of {quoted(id)} has no number of a shape: data[{quoted(self._key)}]"
                f"{must_be('an int from 1 on', number)}. Something else wrote it, or keeps something else there: see"
                " shape_key."
            )
        if number > known:
            raise errors.NewerShape(
                f"The state of {quoted(id)} has shape {number}, and this code knows {self.name} up to {known}: newer"
                " code wrote it. Leave the machine to a worker that runs it, and replace this one."
            )
        if number < oldest:
            raise errors.WrongShape(
                f"The state of {quoted(id)} has shape {number}, and this code upgrades {self.name} from {oldest} on"
                " alone: add the upgrades that it once had."
            )
        return number

    def _upgraded(self, id: str, state: State, shape: int) -> State:
        number = self.number_of(id, state)
        state.pop(self._key, None)
        for before in range(number, shape):
            try:
                state = dict(self._upgrades[before](state))
            except Exception as error:
                raise errors.WrongShape(
                    f"The upgrade of {quoted(id)} from shape {before} to {before + 1} of {self.name} raised"
                    f" {type(error).__name__}. What is stored has not changed."
                ) from error
        return state


class Shaped(Generic[Written, Stored, Shown]):
    """What a memory has of its states' type. Views of one store, whatever their types, are the same memory."""

    store: Store
    steps: Steps
    _shape: Shape | None = None
    _of_its_name: Callable[[], "Shaped[Any, Any, Any]"] | None = None
    """Returns what the settings, or a test, have under its alias by now; ``None``: it is of no alias."""

    def __repr__(self) -> str:
        states = f" with states of {self._shape.name}" if self._shape else ""
        return f"<{type(self).__name__} {quoted(self.steps.alias)} {self.store.place}{states}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shaped) and self.store is other.store

    def __hash__(self) -> int:
        return hash(self.store)

    def _of(self, shape: Shape | None) -> Any:
        view = copy(self)
        view._shape = shape
        return view

    def _by_now(self) -> Self:
        """Return the memory that there is now under the alias of this one, with states of the same type."""
        named: Self = self if self._of_its_name is None else self._of_its_name()._of(self._shape)
        return named

    def _load(self, id: str, data: object) -> Stored | None:
        """Return a stored state as callers see it; ``None``: there is none. Raises ``CorruptRecord``."""
        state: Any = as_state(id, data)
        loaded: Stored | None = state if state is None or self._shape is None else self._shape.load(id, state)
        return loaded

    def _load_record(self, record: Record[Any] | None) -> Record[Stored] | None:
        return record and replace(record, data=self._load(record.id, record.data))

    def _dump(self, data: Any) -> Any:
        return data if self._shape is None else self._shape.dump(data)
