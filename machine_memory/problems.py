"""What can be wrong around a memory, as messages of Django's system checks; each id has its line in the README."""

from django.core.checks import ERROR, WARNING, CheckMessage

_PROBLEMS = {
    "E001": (
        "{error}",
        "Correct MACHINE_MEMORIES: see Settings in the README.",
    ),
    "E101": (
        "The cache {cache!r} ignores exceptions: whoever shares it takes an outage for an absent value.",
        "Give the memory an alias of its own, without IGNORE_EXCEPTIONS.",
    ),
    "E102": (
        "The cache {cache!r} names {count} servers: with replicas or shards, a lease is not on all of them.",
        "Give the memory an alias with the primary server alone, or Sentinel.",
    ),
    "W101": (
        "The client of Redis waits for ever where the server does not answer.",
        "Set SOCKET_TIMEOUT and SOCKET_CONNECT_TIMEOUT in the OPTIONS of the cache.",
    ),
    "W102": (
        "Redis evicts by {policy}: under memory pressure, machines would vanish.",
        "Set maxmemory-policy to noeviction, or keep the memory on a server of its own.",
    ),
    "W103": (
        "Redis keeps no append-only file: a restart loses state and leases.",
        "Set appendonly to yes.",
    ),
    "W104": (
        "Redis did not say how it is set up ({error}).",
        "Let the user of the cache run INFO while this is checked, or compare the settings by hand.",
    ),
}


def problem(id: str, **values: object) -> CheckMessage:
    text, hint = _PROBLEMS[id]
    level = ERROR if id.startswith("E") else WARNING
    return CheckMessage(level, text.format(**values), hint, id=f"machine_memory.{id}")
