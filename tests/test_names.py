"""No name of this package's takes one of Django's by accident: what does so is a hook, and is listed here."""

import inspect
import pkgutil
import re
from contextlib import suppress
from functools import cache
from importlib import import_module

import pytest
from django.db.models import Manager

import machine_memory
from machine_memory.backends.database.queries import MachineQuerySet

HOOKS = {
    "AppConfig": "name verbose_name ready",
    "BaseCommand": "help requires_system_checks create_parser add_arguments handle",
    "ChangeList": """
        get_filters_params get_ordering get_queryset get_results can_show_all full_result_count multi_page paginator
        result_count result_list show_admin_actions show_full_result_count
    """,
    "CharField": "db_type db_parameters",
    "Form": "base_fields declared_fields media",  # Django's own metaclass makes them.
    "Func": "as_sql output_field",
    "Index": "create_sql deconstruct",
    "JSONField": "db_type from_db_value get_db_prep_value get_lookup get_transform select_format",
    "ModelAdmin": """
        action_checkbox actions list_display list_display_links list_filter list_max_show_all lookup_allowed ordering
        paginator search_fields search_help_text show_facets show_full_result_count sortable_by change_view
        changelist_view get_changelist get_fieldsets get_paginator get_object get_ordering get_preserved_filters
        get_queryset get_readonly_fields get_search_results get_sortable_by get_urls has_add_permission
        has_change_permission has_delete_permission has_view_permission media
    """,
    "PathConverter": "regex to_python to_url",
    "Paginator": "count _get_page",
    "SimpleListFilter": "title parameter_name template lookups choices queryset",
}
"""By class of Django's, what this package means to replace of it."""


def classes() -> list[type]:
    """Return the classes of this package that inherit from one of Django's."""
    found = set()
    for module in pkgutil.walk_packages(machine_memory.__path__, "machine_memory."):
        if ".migrations" not in module.name:
            found |= {kind for kind in vars(import_module(module.name)).values() if isinstance(kind, type)}
    return sorted((kind for kind in found if is_ours(kind) and any(map(is_djangos, kind.__mro__))), key=str)


def is_ours(kind: type) -> bool:
    return kind.__module__.startswith("machine_memory")


def is_djangos(kind: type) -> bool:
    return kind.__module__.startswith("django.")


@cache
def names(kind: type) -> set[str]:
    """Return the names that a class has by its own definition, those of its instances among them."""
    found = set(vars(kind))
    with suppress(OSError):  # A class that is made while the program runs has no source.
        found.update(re.findall(r"^ +self\.(\w+)(?:: [^=\n]+)? = ", inspect.getsource(kind), re.MULTILINE))
    return {name for name in found if not (name.startswith("__") and name.endswith("__"))}


def taken(kind: type, *more: type) -> set[str]:
    ours = {name for base in kind.__mro__ if is_ours(base) for name in names(base)}
    return ours & {name for base in (*kind.__mro__, *more) if is_djangos(base) for name in names(base)}


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_only_hooks_are_replaced(kind: type) -> None:
    django = next(base for base in kind.__mro__ if is_djangos(base))

    assert taken(kind) <= set(HOOKS.get(django.__name__, "").split()), f"rename it, or list it below {django.__name__}"


def test_the_manager_loses_nothing_to_the_vocabulary() -> None:
    assert taken(MachineQuerySet, *Manager.__mro__) == set()


def test_every_hook_that_is_listed_is_one() -> None:
    replaced: dict[str, set[str]] = {}
    for kind in classes():
        django = next(base for base in kind.__mro__ if is_djangos(base))
        replaced.setdefault(django.__name__, set()).update(taken(kind))
    assert {name: hooks for name, hooks in replaced.items() if hooks} == {
        name: set(hooks.split()) for name, hooks in HOOKS.items()
    }


def test_a_name_that_is_taken_is_found() -> None:
    class Careless(MachineQuerySet):
        def _insert(self) -> None: ...

    Careless.__module__ = MachineQuerySet.__module__
    assert taken(Careless) == {"_insert"}
