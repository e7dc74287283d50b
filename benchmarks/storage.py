"""How much room the machines take, and how much a database writes to its log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db import connections

from machine_memory.models import MachineRecord

TABLE = MachineRecord._meta.db_table
HOT = "SELECT n_tup_hot_upd::float / GREATEST(n_tup_upd, 1) FROM pg_stat_user_tables WHERE relname = %s"


def room(alias: str) -> tuple[int, int | None]:
    """Return the bytes of the table and of its indexes; of SQLite those of both together."""
    match connections[alias].vendor:
        case "postgresql":
            table, indexes = _row(alias, "SELECT PG_TABLE_SIZE(%s), PG_INDEXES_SIZE(%s)", TABLE, TABLE)
            return int(table), int(indexes)
        case "sqlite":
            (pages,), (size,) = _row(alias, "PRAGMA page_count"), _row(alias, "PRAGMA page_size")
            return int(pages) * int(size), None
    _row(alias, f"ANALYZE TABLE {TABLE}")
    columns = "data_length, index_length FROM information_schema.tables"
    table, indexes = _row(alias, f"SELECT {columns} WHERE table_schema = DATABASE() AND table_name = %s", TABLE)
    return int(table), int(indexes)


def hot_share(alias: str) -> float | None:
    """Return the share of updates on PostgreSQL that touched no index, and left nothing for VACUUM to collect."""
    if connections[alias].vendor != "postgresql":
        return None
    _row(alias, "SELECT PG_STAT_FORCE_NEXT_FLUSH()")
    return float(_row(alias, HOT, TABLE)[0])


def logged(alias: str, action: Callable[[], object]) -> int:
    """Return the bytes that the database wrote ahead while ``action`` ran; of a server, for all its databases."""
    match connections[alias].vendor:
        case "sqlite":
            _row(alias, "PRAGMA wal_checkpoint(TRUNCATE)")
            action()
            return Path(f"{connections[alias].settings_dict['NAME']}-wal").stat().st_size
        case "postgresql":
            position = "SELECT PG_CURRENT_WAL_INSERT_LSN() - '0/0'::pg_lsn"
        case _:
            position = (
                "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'INNODB_LSN_CURRENT'"
            )
    before = int(_row(alias, position)[0])
    action()
    return int(_row(alias, position)[0]) - before


def _row(alias: str, statement: str, *params: str) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, params or None)
        return cursor.fetchone()
