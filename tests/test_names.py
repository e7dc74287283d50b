"""No name of ours covers one of Django's that was not made to be."""

import inspect
from typing import Any

import pytest
from django.contrib.admin import ModelAdmin

from machine_memory import admin, clock, fields, models
from machine_memory.admin import columns, lists, release, window

HOOKS = {
    # Of expressions and fields.
    *("as_sql", "output_field", "db_type", "db_parameters", "select_format", "from_db_value", "get_db_prep_value"),
    *("deconstruct", "create_sql"),
    # Of models.
    *("Meta", "objects", "DoesNotExist", "MultipleObjectsReturned", "NotUpdated", "id"),
    # Of the admin.
    *("Media", "media", "actions", "list_display", "list_display_links", "list_filter", "ordering", "sortable_by"),
    *("paginator", "show_full_result_count", "show_facets", "list_max_show_all", "search_fields", "search_help_text"),
    *("has_add_permission", "has_change_permission", "has_delete_permission", "has_view_permission", "get_urls"),
    *("get_queryset", "get_search_results", "get_ordering", "get_sortable_by", "get_object", "get_fieldsets"),
    *("get_readonly_fields", "changelist_view", "change_view", "lookup_allowed", "get_list_filter", "history_view"),
    # Of filters, forms and pages.
    *("title", "parameter_name", "template", "lookups", "choices", "queryset", "count", "base_fields"),
    *("declared_fields", "expected_parameters", "has_output"),
    "_get_page",  # Called between the slice of a page and the page; without it each list would be written anew.
}
"""What Django says may be filled in, and one more."""
OURS = [
    thing
    for module in (admin, columns, lists, release, window, clock, fields, models)
    for thing in vars(module).values()
    if inspect.isclass(thing) and thing.__module__.startswith("machine_memory")
]


@pytest.mark.parametrize("ours", OURS, ids=lambda ours: ours.__name__)
def test_names_are_our_own(ours: type[Any]) -> None:
    theirs = {
        name
        for base in (*ours.__mro__, *((ModelAdmin,) if ours is columns.Columns else ()))
        if base.__module__.startswith("django")
        for name in vars(base)
    }
    own = {name for name in vars(ours) if not (name.startswith("__") and name.endswith("__"))}
    generated = {"_meta", "_default_manager", "_base_manager"} | {
        name for name in own if name.startswith(("get_next_by", "get_previous_by"))
    }
    assert sorted((own & theirs) - HOOKS - generated) == []
