"""The README is a door: short, and each of its ways leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_it_can_be_read_in_two_minutes() -> None:
    assert len(README.splitlines()) < 120


@pytest.mark.parametrize("place", re.findall(r"\]\((?!https?:)([^)#]+)", README))
def test_its_ways_lead_somewhere(place: str) -> None:
    assert (ROOT / place).exists()


@pytest.mark.parametrize("target", re.findall(r"\bmake (\w+)\b", README))
def test_its_commands_exist(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("extra", re.findall(r"machine-memory\[(\w+)\]|\[(\w+)\],", README))
def test_what_it_installs_exists(extra: tuple[str, str]) -> None:
    assert f"\n{''.join(extra)} = [" in (ROOT / "pyproject.toml").read_text()
