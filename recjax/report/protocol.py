"""The protocol of an evaluation, as rows of a table; the record is made by `recjax.metrics.protocol`."""

from collections.abc import Iterator, Mapping
from typing import Any

from recjax.report.numbers import percent


def rows(record: Mapping[str, Any] | None) -> list[tuple[str, str]]:
  """Returns label and text of every known part of the record; empty if there is none.

  Args:
    record: `protocol` of the report.
  """
  return list(_rows(record or {}))


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  if 'split' in record:
    yield 'Split', str(record['split'])
  if 'target_rule' in record:
    yield 'Targets', record['target_rule']
  if 'exclude_seen' in record:
    yield 'Items of the history', 'removed from the ranking' if record['exclude_seen'] else 'ranked'
  for split, found in record.get('reachable_targets', {}).items():
    yield (
      f'Reachable {split} targets',
      f'{found["count"]:,} ({percent(found["share"], 2)}); {found["in_own_history"]:,} are in their own history',
    )
  if 'items_sharing_a_sid' in record:
    share = record.get('items_sharing_a_sid_share')
    yield (
      'Items that share their semantic ID',
      f'{record["items_sharing_a_sid"]:,}'
      + (f' ({percent(share, 2)})' if share is not None else ''),
    )
  if record.get('items_sharing_a_sid') and record.get('shared_sids') == 'first':
    yield 'Ranked items of a semantic ID', 'the most popular one that is not removed'
  if record.get('items_sharing_a_sid'):  # otherwise both kinds of hits are equal
    for ranker, found in record.get('hits', {}).get('test', {}).items():
      if {'recall@10', 'sid_recall@10'} <= found.keys():
        yield (
          f'Test recall@10, {ranker}',
          f'{found["recall@10"]:.4f} by hits of items, {found["sid_recall@10"]:.4f} by hits of semantic IDs',
        )
  if rules := record.get('leakage', {}).get('rules'):
    yield 'Leakage test passed', '; '.join(rules.values())


def sid_metrics(record: Mapping[str, Any] | None) -> dict[str, float]:
  """Returns the model's test metrics by hits of semantic IDs, such as recall@10; empty if they are not recorded."""
  found = (record or {}).get('hits', {}).get('test', {}).get('model', {})
  return {name.removeprefix('sid_'): value for name, value in found.items() if name.startswith('sid_')}  # fmt: skip
