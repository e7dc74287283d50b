"""The lists of a memory: in a database a page of what matches, elsewhere what one look finds."""

from typing import Any

from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property

from machine_memory.admin.lists import asked_by, by_lease, by_timer
from machine_memory.admin.machines import found, named
from machine_memory.admin.memories import MEMORY, alias_of, aliases, default_alias
from machine_memory.core.records import Sought
from machine_memory.core.store import Store
from machine_memory.handler import memories
from machine_memory.models import HeldLock

START = "start"
"""The parameter that says where a look starts."""


class Listing(ChangeList):
    """Rows of a database."""

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.alias = alias_of(request)
        super().__init__(request, *args, **kwargs)

    def get_filters_params(self, params: Any = None) -> Any:
        return {name: values for name, values in super().get_filters_params(params).items() if name != MEMORY}

    def get_ordering(self, request: HttpRequest, queryset: Any) -> Any:
        if by_lease(request) or by_timer(request):
            self.params.pop(ORDER_VAR, None)  # These have an order of their own, and no heads to choose another by.
        return super().get_ordering(request, queryset)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list: Any = list(named(self.alias, self.result_list))

    @property
    def store(self) -> Store:
        return memories[self.alias].store

    @cached_property
    def memory_choices(self) -> list[dict[str, Any]]:
        return [
            {
                "alias": alias,
                "url": self.get_query_string({MEMORY: None if alias == default_alias() else alias}),
                "is_chosen": alias == self.alias,
            }
            for alias in aliases()
        ]


class Looking(Listing):
    """What one look at another store finds: neither sorted nor counted beyond that."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        self.start = request.GET.get(START, "")
        for known in (self.params, self.filter_params):  # Where other things are asked for, it starts anew.
            known.pop(START, None)
        return super().get_queryset(request, exclude_parameters)

    def get_results(self, request: HttpRequest) -> None:
        rows, self.further = found(self.alias, self._sought(), self.start, self.list_per_page)
        order: Any = self.model_admin.get_ordering(request)
        self.result_list = sorted(rows, key=lambda row: [getattr(row, name) for name in order])
        self.result_count = len(rows)
        self.full_result_count = None
        self.paginator = Paginator(rows, max(1, len(rows)))
        self.show_full_result_count = False
        self.show_admin_actions = True
        self.can_show_all = False
        self.multi_page = False

    @property
    def is_partial(self) -> bool:
        return bool(self.start or self.further)

    @property
    def first_url(self) -> str:
        return self.get_query_string()

    @property
    def further_url(self) -> str:
        return self.get_query_string({START: self.further})

    def _sought(self) -> Sought:
        specs: list[Any] = self.filter_specs
        filters = {spec.parameter_name: spec.asked() for spec in specs}
        return Sought(**filters, **asked_by(self.query), leased=self.model is HeldLock)
