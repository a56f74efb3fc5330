"""Finds figures of groups of users, of evaluators and of times that cannot be right, as sentences."""

from collections.abc import Iterator, Mapping
import math
from typing import Any

METRIC = 'recall@10'
# Figures in [0, 1], by the part of their name before @ or _.
_PROPORTIONS = ('recall', 'ndcg', 'mrr', 'hit', 'auc')
_TOLERANCE = 1e-6


def doubts(results: Mapping[str, Any]) -> list[str]:
  """Returns one sentence for every part of evaluation.json that contradicts another or is impossible.

  Args:
    results: content of evaluation.json; the parts that earlier versions did not write may be absent.
  """
  found = [*_memorization(results), *_splits(results)]
  for name, splits in results.get('evaluators', {}).items():
    for split, values in splits.items():
      found += _impossible(values, f'evaluators.{name}.{split}')
  for name, seconds in results.get('seconds_per_row', {}).items():
    if seconds < 0:
      found.append(f'seconds_per_row.{name} must not be negative; got {seconds:.6g}.')
  return found


def not_finite(value: Any, place: str) -> Iterator[str]:
  """Yields the dotted name of every number that is not finite, which JSON cannot hold."""
  if isinstance(value, Mapping):
    for name, inner in value.items():
      yield from not_finite(inner, f'{place}.{name}')
  elif isinstance(value, list | tuple):
    for n, inner in enumerate(value):
      yield from not_finite(inner, f'{place}.{n}')
  elif isinstance(value, float) and not math.isfinite(value):
    yield place


def _whole(results: Mapping[str, Any], ranker: str) -> float | None:
  """Returns recall@10 of a ranker on all test rows."""
  tables = results['baselines'] | results.get('rankers', {}) | {'model': results['metrics']['test']}
  return tables.get(ranker, {}).get(METRIC)


def _memorization(results: Mapping[str, Any]) -> Iterator[str]:
  rows = results.get('rows', {}).get('test')
  for ranker, found in results.get('memorization', {}).get('test', {}).items():
    place = f'memorization.test.{ranker}'
    groups = [(found[name].get('users', 0), found[name]) for name in ('inside', 'outside') if name in found]  # fmt: skip
    users = sum(count for count, _ in groups)
    if rows is not None and users != rows:
      yield f'{place}: the users inside and outside must add up to the {rows:,} test rows; they are {users:,}.'
    yield from _weighted(groups, _whole(results, ranker), place)
    yield from _impossible(found, place)
    if not 0 <= found.get('top5_share', 0) <= 1:
      yield f'{place}.top5_share must be from 0 to 1; got {found["top5_share"]:.6g}.'


def _splits(results: Mapping[str, Any]) -> Iterator[str]:
  rows = results.get('rows', {}).get('test')
  for name, buckets in results.get('splits', {}).get('test', {}).items():
    place = f'splits.test.{name}'
    counted = sum(bucket['rows'] for bucket in buckets.values())
    if rows is not None and counted != rows:
      yield f'{place}: the rows of the buckets must add up to the {rows:,} test rows; they are {counted:,}.'
    rankers = dict.fromkeys(
      ranker for bucket in buckets.values() for ranker in bucket if ranker != 'rows'
    )
    for ranker in rankers:
      groups = [(bucket['rows'], bucket.get(ranker, {})) for bucket in buckets.values()]
      yield from _weighted(groups, _whole(results, ranker), f'{place}, {ranker}')
    yield from _impossible(buckets, place)


def _weighted(
  groups: list[tuple[int, Mapping[str, float]]], whole: float | None, place: str
) -> Iterator[str]:
  """Compares the mean of the groups, weighted by their rows, with the value of all rows."""
  groups = [(rows, values) for rows, values in groups if rows]
  if whole is None or not groups or any(METRIC not in values for _, values in groups):
    return
  mean = sum(rows * values[METRIC] for rows, values in groups) / sum(rows for rows, _ in groups)
  if abs(mean - whole) > _TOLERANCE:
    yield f'{place}: {METRIC} of the groups gives {mean:.6f} for all rows; it must be {whole:.6f}.'


def _impossible(values: Mapping[str, Any], place: str) -> Iterator[str]:
  """Yields a sentence for every figure that is out of its range."""
  for name, value in values.items():
    if isinstance(value, Mapping):
      yield from _impossible(value, f'{place}.{name}')
    elif isinstance(value, int | float):
      kind = name.split('@')[0].split('_')[0]
      is_proportion = kind in _PROPORTIONS and not name.endswith('_stderr')
      if value < 0 and (
        is_proportion or name.endswith('_stderr') or kind in ('rmse', 'mae', 'rows', 'users')
      ):
        yield f'{place}.{name} must not be negative; got {value:.6g}.'
      elif is_proportion and value > 1 + _TOLERANCE:
        yield f'{place}.{name} must be at most 1; got {value:.6g}.'
