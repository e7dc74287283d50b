"""What a store has to keep of the promises of a memory: inherit a test case from it, and say how a memory is made."""

from machine_memory.testing.contract.leases import LeaseContract
from machine_memory.testing.contract.listings import ListingContract
from machine_memory.testing.contract.many import BatchContract, TimerContract
from machine_memory.testing.contract.states import StateContract

__all__ = ["BatchContract", "LeaseContract", "ListingContract", "StateContract", "StoreContract", "TimerContract"]


class StoreContract(LeaseContract, StateContract, BatchContract, TimerContract, ListingContract):
    """All of them."""
