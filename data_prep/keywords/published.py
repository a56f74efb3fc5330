"""The teacher `import`: reads keywords from a file, such as one published with a SID table."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from data_prep.keywords.groups import Group
from recjax.sids import keywords

_FIELD = 'keywords.file'
_SHOWN = 5  # tokens that a message names


def entries(
  path: epath.Path, groups: Sequence[Group], items: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
  """Returns the entries of a file in TS-Rec's format, in the order of the groups.

  Entries of unused tokens are dropped.

  Args:
    path: the file.
    groups: the groups of all used tokens.
    items: unused; the other teachers read the items.

  Raises:
    ValueError: the file has another format, or lacks a used token, or its entry is empty.
  """
  by_token = {entry['token']: entry for entry in keywords.read(path, _FIELD)}
  missing = [group.token for group in groups if group.token not in by_token]
  if missing:
    more = len(by_token) - (len(groups) - len(missing))
    raise ValueError(
      f'{path} must have an entry for each of the {len(groups)} SID tokens that items have; '
      f'{len(missing)} are missing: {_names(missing)}. It has {more} entries of other tokens, so it may belong '
      'to another SID table. Set --config.keywords.file, or --config.keywords.teacher=ctfidf'
    )
  found = [by_token[group.token] for group in groups]
  if empty := [e['token'] for e in found if not e['keywords'] or not e['description'].strip()]:
    raise ValueError(
      f'every entry of {path} must have keywords and a description; {len(empty)} lack them: '
      f'{_names(empty)}. Set --config.{_FIELD}'
    )
  return found


def _names(tokens: list[str]) -> str:
  return ', '.join(tokens[:_SHOWN]) + (', …' if len(tokens) > _SHOWN else '')
