"""How it is said that a value is not of the type that was declared for it."""

from machine_memory.core.validation import quoted


class Misfit(Exception):
    """A value is not of its type. ``path``: the keys that lead to it, the last one first."""

    def __init__(self, reason: str, path: tuple[object, ...] = ()) -> None:
        super().__init__(reason)
        self.path = list(path)

    def __str__(self) -> str:
        return "".join(f"[{quoted(key)}]" for key in reversed(self.path)) + f" {self.args[0]}"


def must_be(what: str, value: object) -> Misfit:
    """Return the misfit of a value of another type, without the value: it may be anybody's."""
    return Misfit(f"must be {what}, and is {'null' if value is None else type(value).__name__}")
