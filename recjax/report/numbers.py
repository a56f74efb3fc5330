"""Numbers and texts for a reader: formatted, thinned, shortened."""

from collections.abc import Sequence
import itertools

MAX_POINTS = 200  # largest number of points of a curve

Point = tuple[float, float]


def number(value: float) -> str:
  """Formats a number with four significant digits: 12,000, 0.0765, 3.2e-05."""
  if value == int(value) and abs(value) < 1e9:
    return f'{int(value):,}'
  return f'{value:,.2f}' if abs(value) >= 100 else f'{value:.4g}'


def percent(share: float, digits: int = 1) -> str:
  """Formats a share: 12.3 %."""
  return f'{100 * share:.{digits}f} %'


def shortened(text: str, length: int) -> str:
  """Returns a text of at most `length` characters."""
  return text if len(text) <= length else text[: length - 1].rstrip() + '…'


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
  """Returns at most `limit` points: means of consecutive points, since single points would show noise."""
  if len(points) <= limit:
    return [(float(x), float(y)) for x, y in points]
  cuts = [len(points) * i // limit for i in range(limit + 1)]
  groups = [points[start:end] for start, end in itertools.pairwise(cuts)]
  return [
    tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups
  ]
