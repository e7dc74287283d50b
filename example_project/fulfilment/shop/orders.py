"""The express orders: free, held, left behind by workers that died, and one that is sent in several parcels."""

from typing import Any

from machine_memory import BaseMachineMemory, Metadata

STATUSES = {
    "express-0001": "delivered",
    "express-0002": "picked",
    "express-0003": "paid",
    "express-0004": "packed",
    "express-0004/parcel-1": "shipped",
    "express-0004/parcel-2": "packed",
    "express-0004/parcel-3": "placed",
    "express-0005": "picked",
    "express-0006": "shipped",
}


def place(memory: BaseMachineMemory) -> None:
    """Begin each order anew, whoever may have held it when this was last shown."""
    for order, status in STATUSES.items():
        memory.force_unlock(order)
        memory.cleanup(order)
        whole, slash, _ = order.partition("/")
        metadata = Metadata(
            status=status, source="packing" if slash else "shop", initiator="Ada", parent=whole if slash else None
        )
        memory.write(order, _state(order), metadata=metadata)


def _state(order: str) -> dict[str, Any]:
    return {
        "order": order,
        "customer": {"name": "Ada Lovelace", "city": "London"},
        "lines": [{"article": "tea", "quantity": 2}, {"article": "teapot", "quantity": 1}],
        "scanned": 0,
    }
