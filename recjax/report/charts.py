"""Draws line charts and bars as inline SVG with hover texts; the CSS of the page sets the colours."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import math

from markupsafe import Markup

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44  # margins of the plot
MAX_POINTS = 200  # largest number of points of a curve
MAX_MARKS = 40  # curves with more points show their dots only on hovering
LABEL_HEIGHT = 18  # pixels; closer reference lines share a label

Point = tuple[float, float]


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
  """Returns at most `limit` points: means of consecutive points, since single points would show noise."""
  if len(points) <= limit:
    return [(float(x), float(y)) for x, y in points]
  cuts = [len(points) * i // limit for i in range(limit + 1)]
  groups = [points[start:end] for start, end in itertools.pairwise(cuts)]
  return [
    tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups
  ]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
  """Returns equidistant round numbers that enclose [low, high]; steps are 1, 2 or 5 times a power of ten."""
  if not high > low:
    high = low + (abs(low) or 1.0)
  raw = (high - low) / wanted
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
  """Formats a number with four significant digits: 12,000, 0.0765, 3.2e-05."""
  if value == int(value) and abs(value) < 1e9:
    return f'{int(value):,}'
  return f'{value:,.2f}' if abs(value) >= 100 else f'{value:.4g}'


class _Plot:
  """Maps data to pixels; the axes begin and end at ticks."""

  def __init__(self, xs: Sequence[float], ys: Sequence[float]):
    self.x_ticks, self.y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))

  def across(self, x: float) -> float:
    share = (x - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 2)

  def down(self, y: float) -> float:
    share = (y - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 2)


def line_chart(
  points: Sequence[Point],
  name: str,
  x_name: str = 'step',
  errors: Sequence[float] | None = None,
  references: Mapping[str, float] | None = None,
) -> Markup:
  """Draws one curve with axes.

  Args:
    points: (x, y), x ascending.
    name: name of y.
    x_name: name of x.
    errors: the standard error of every point, drawn as a vertical bar; suits few points.
    references: values to compare with, drawn as labelled horizontal lines.

  Returns:
    An `<svg>` element with escaped texts. Hovering over a point shows its values.
  """
  if not points:
    return Markup('<p class="none">{} was not recorded.</p>').format(name)
  errors = list(errors) if errors else [0.0] * len(points)
  references = references or {}
  ends = [y + sign * e for (_, y), e in zip(points, errors, strict=True) for sign in (-1, 1)]
  plot = _Plot([x for x, _ in points], [*ends, *references.values()])
  svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
    WIDTH, HEIGHT, f'{name} over {x_name}'
  )
  parts = [*_axes(plot, x_name), *_references(plot, references)]
  parts += _curve(plot, points, name, x_name, errors)
  return Markup('').join([svg, *parts, Markup('</svg>')])


def bar_chart(
  bars: Sequence[tuple[str, float]],
  name: str,
  x_name: str,
  labels: int = 7,
  marks: Mapping[str, float] | None = None,
) -> Markup:
  """Draws bars of equal width.

  Args:
    bars: label and height of every bar; at least one height is positive.
    name: name of the heights.
    x_name: name of the labels.
    labels: the most labels below the bars; the others are seen on hovering.
    marks: places to mark by vertical lines with a name, in bars from the left.

  Returns:
    An `<svg>` element with escaped texts.
  """
  plot = _Plot([0, len(bars)], [0, max(height for _, height in bars)])
  width = (WIDTH - LEFT - RIGHT) / len(bars)
  gap = min(4, width / 5)
  svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
    WIDTH, HEIGHT, f'{name} by {x_name}'
  )
  parts = [*_frame(plot, x_name)]
  every = -(-len(bars) // labels)
  for i, (label, height) in enumerate(bars):
    left, top = LEFT + i * width, plot.down(height)
    parts.append(
      Markup(
        '<rect class="block" x="{:.2f}" y="{}" width="{:.2f}" height="{:.2f}"><title>{}</title></rect>'
      ).format(
        left + gap / 2, top, width - gap, HEIGHT - BOTTOM - top, f'{label}: {number(height)}'
      )
    )
    if i % every == 0:
      parts.append(
        Markup('<text class="tick" x="{:.2f}" y="{}" text-anchor="middle">{}</text>').format(
          left + width / 2, HEIGHT - BOTTOM + 18, label
        )
      )
  for n, (text, place) in enumerate((marks or {}).items()):
    across = round(LEFT + place * width, 2)
    parts.append(
      Markup(
        '<line class="reference" x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
        '<text class="tick" x="{x}" y="{}" dx="-5" text-anchor="end">{}</text>'
      ).format(TOP, HEIGHT - BOTTOM, TOP + 10 + LABEL_HEIGHT * n, text, x=across)
    )
  return Markup('').join([svg, *parts, Markup('</svg>')])


def _axes(plot: _Plot, x_name: str) -> Iterator[Markup]:
  yield from _frame(plot, x_name)
  for x in plot.x_ticks:
    yield Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
      plot.across(x), HEIGHT - BOTTOM + 18, number(x)
    )


def _frame(plot: _Plot, x_name: str) -> Iterator[Markup]:
  """Yields the lines and labels of y, and the name of x."""
  bottom = HEIGHT - BOTTOM
  for y in plot.y_ticks:
    yield Markup(
      '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
      '<text class="tick" x="{}" y="{y}" dy="4" text-anchor="end">{}</text>'
    ).format(LEFT, WIDTH - RIGHT, LEFT - 8, number(y), y=plot.down(y))
  yield Markup('<line class="axis" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
    LEFT, WIDTH - RIGHT, y=bottom
  )
  yield Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
    (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_name
  )


def _references(plot: _Plot, references: Mapping[str, float]) -> Iterator[Markup]:
  """Yields reference lines and labels; lines that are close together share a label."""
  labels: dict[float, list[str]] = {}  # by the y pixel
  for name, y in sorted(references.items(), key=lambda item: item[1]):
    down = plot.down(y)
    yield Markup('<line class="reference" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
      LEFT, WIDTH - RIGHT, y=down
    )
    place = min(labels, key=lambda other: abs(other - down), default=down)
    place = place if abs(place - down) < LABEL_HEIGHT else down
    labels.setdefault(place, []).append(f'{name} {number(y)}')
  for down, texts in labels.items():
    yield Markup('<text class="tick" x="{}" y="{}" dy="-5" text-anchor="end">{}</text>').format(
      WIDTH - RIGHT, down, ', '.join(texts)
    )


def _curve(
  plot: _Plot, points: Sequence[Point], name: str, x_name: str, errors: Sequence[float]
) -> Iterator[Markup]:
  line = ' '.join(f'{plot.across(x)},{plot.down(y)}' for x, y in points)
  yield Markup('<polyline class="curve" points="{}"/>').format(line)
  for (x, y), error in zip(points, errors, strict=True):
    if error:
      yield Markup('<line class="error" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
        plot.down(y - error), plot.down(y + error), x=plot.across(x)
      )
    text = f'{x_name} {number(round(x))}: {name} {number(y)}' + (
      f' ± {number(error)}' if error else ''
    )
    yield Markup('<circle class="{}" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
      'mark' if len(points) <= MAX_MARKS else 'hover', plot.across(x), plot.down(y), text
    )
