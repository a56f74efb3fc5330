"""The section of the page about the evaluators beside retrieval: one table each."""

from collections.abc import Iterator, Mapping
from typing import Any

from recjax.data.dataset import SPLITS
from recjax.metrics import weights
from recjax.report.numbers import number


def tables(report: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns one table per evaluator, without those that repeat the metrics of the page's first table.

  Args:
    report: the content of report.json.

  Returns:
    `name`, `splits` (the columns) and `rows`: the name of a figure, and its text in every split.
  """
  found = []
  for name, by_split in (report.get('evaluators') or {}).items():
    splits = [split for split in SPLITS if split in by_split]
    columns = {split: dict(_figures(by_split[split])) for split in splits}
    if splits and not all(_repeats(by_split[split], report['metrics'][split]) for split in splits):
      rows = dict.fromkeys(key for split in splits for key in columns[split])
      found.append({
        'name': name,
        'splits': splits,
        'rows': [(key, [columns[split].get(key, '–') for split in splits]) for key in rows],
      })  # fmt: skip
  return found


def _repeats(values: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
  """Returns whether every figure of an evaluator, except rows and weights, is one of the given metrics."""
  left_out = ('rows', *weights.NAMES.values())
  return all(metrics.get(name) == value for name, value in values.items() if name not in left_out)


def _figures(values: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
  """Yields name and text of every figure; standard errors stand beside their figure."""
  for name, value in values.items():
    label = prefix + name.replace('_', ' ')
    if isinstance(value, Mapping):
      yield from _figures(value, f'{label}: ')
    elif not name.endswith('_stderr'):
      error = values.get(f'{name}_stderr')
      yield label, _text(value) + (f' ± {_text(error)}' if error is not None else '')


def _text(value: Any) -> str:
  if value is None:
    return '–'
  if isinstance(value, float):
    return f'{value:.4f}' if abs(value) < 100 else number(value)
  return f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else str(value)
