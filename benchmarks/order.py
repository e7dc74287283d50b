"""The state that every contestant keeps: an order in the middle of its fulfilment."""

import json
from typing import Any

USUAL = 1_300
"""Bytes of JSON that a machine usually holds."""


def order(size: int = USUAL) -> dict[str, Any]:
    """Return an order of ``size`` bytes as JSON, or a few more: its history is as long as it takes."""
    state: dict[str, Any] = {
        "status": "packed",
        "revision": 1,
        "customer": {"id": 48213, "name": "Zoë Okonkwo-Lindström", "email": "zoe@shop.example", "since": "2019-03-01"},
        "address": {"street": "12 Market Row", "city": "Łódź", "postcode": "90-001", "country": "PL"},
        "lines": [
            {"sku": "KB-104-ISO", "title": "Keyboard, ISO layout", "quantity": 1, "price": 89.9, "tax": 0.23},
            {"sku": "CBL-USBC-2", "title": "Cable, 2 m", "quantity": 3, "price": 7.49, "tax": 0.23},
            {"sku": "MAT-900", "title": "Desk mat, 90 cm", "quantity": 1, "price": 24.0, "tax": 0.23},
        ],
        "total": 136.37,
        "paid": True,
        "shipment": None,
        "history": [],
    }
    missing = size - length(state)
    while missing > 0:
        number = len(state["history"]) + 1
        event = {"id": f"evt-{number:06}", "type": "com.shop.order.stock.reserved", "at": "2026-01-05T09:30:00Z"}
        state["history"].append(event)
        missing -= length(event) + 1
    return state


def advance(state: dict[str, Any]) -> None:
    """Do a step of work: a new event takes the place of the oldest, so that the size stays."""
    state["revision"] += 1
    history = state["history"]
    history.append({**history.pop(0), "id": f"evt-{state['revision']:06}"})


def encode(state: object) -> str:
    return json.dumps(state, ensure_ascii=False, separators=(",", ":"))


def length(state: object) -> int:
    """Return the bytes of ``state`` as compact JSON."""
    return len(encode(state).encode())
