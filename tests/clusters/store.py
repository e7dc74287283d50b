"""The store of which each connection is to another node."""

from django.db import connections

from tests.clusters import galera
from tests.contract.stores import Store
from tests.database.store import DatabaseStore


class GaleraStore(DatabaseStore):
    def close(self) -> None:
        connections[self.alias].close()  # The next test begins at the next node.


STORES: dict[str, type[Store]] = {galera.ALIAS: GaleraStore}
