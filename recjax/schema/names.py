"""Suggests the nearest known names for an unknown one."""

from collections.abc import Iterable
import difflib

MOST = 3  # names in a suggestion


def near(name: str, known: Iterable[str]) -> list[str]:
  """Returns the known names that resemble a name, the most similar first; upper case does not matter."""
  by_lower = {other.lower(): other for other in map(str, known)}
  lower = str(name).lower()
  found = difflib.get_close_matches(lower, by_lower, n=MOST, cutoff=0.55)
  if len(lower) > 2:
    found += [other for other in by_lower if other.startswith(lower) and other not in found]
  return [by_lower[other] for other in found[:MOST]]


def question(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean A or B?', to append to a message; empty if no name is near."""
  found = near(name, known)
  return f'; did you mean {" or ".join(found)}?' if found else ''
