"""Line charts as inline SVG for the report: axes, hover texts, colours from the page's CSS."""

from collections.abc import Mapping, Sequence
import itertools
import math

import markupsafe

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44  # margins of the plot
MAX_POINTS = 200  # of a curve that is drawn

Point = tuple[float, float]


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
  """At most `limit` points: means of runs of neighbours, so that noise does not choose what is seen."""
  if len(points) <= limit:
    return [(float(x), float(y)) for x, y in points]
  cuts = [len(points) * i // limit for i in range(limit + 1)]
  runs = [points[start:end] for start, end in itertools.pairwise(cuts)]
  return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
  """Round numbers (1, 2 or 5 times a power of ten apart) that enclose [low, high]."""
  if not high > low:
    high = low + (abs(low) or 1.0)
  raw = (high - low) / wanted
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
  """A figure in as few characters as it takes: 12,000, 0.0765, 3.2e-05."""
  if value == int(value) and abs(value) < 1e9:
    return f'{int(value):,}'
  return f'{value:,.2f}' if abs(value) >= 100 else f'{value:.4g}'


def line_chart(
  points: Sequence[Point],
  name: str,
  x_name: str = 'step',
  errors: Sequence[float] | None = None,
  references: Mapping[str, float] | None = None,
) -> markupsafe.Markup:
  """One curve over round axes.

  Args:
    points: (x, y), x ascending.
    name: what y is.
    x_name: what x is.
    errors: a standard error for each point, drawn as a vertical bar; few points only.
    references: values to compare with, drawn as labelled horizontal lines.

  Returns:
    An `<svg>` element, its texts escaped. Hovering over a point shows its figures.
  """
  if not points:
    return markupsafe.Markup('<p class="none">{} was not recorded.</p>').format(name)
  errors = list(errors) if errors else [0.0] * len(points)
  references = references or {}
  ends = [y + sign * e for (_, y), e in zip(points, errors, strict=True) for sign in (-1, 1)]
  y_ticks = ticks(min([*ends, *references.values()]), max([*ends, *references.values()]))
  x_ticks = ticks(points[0][0], points[-1][0])

  def across(x: float) -> float:
    return round(LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT), 2)

  def down(y: float) -> float:
    share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 2)

  markup = markupsafe.Markup
  parts = [
    markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
      WIDTH, HEIGHT, f'{name} over {x_name}'
    )
  ]
  bottom = HEIGHT - BOTTOM
  for y in y_ticks:
    parts.append(
      markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="{}" y="{y}" dy="4" text-anchor="end">{}</text>'
      ).format(LEFT, WIDTH - RIGHT, LEFT - 8, number(y), y=down(y))
    )
  for x in x_ticks:
    parts.append(
      markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        across(x), bottom + 18, number(x)
      )
    )
  parts.append(
    markup('<line class="axis" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
      LEFT, WIDTH - RIGHT, y=bottom
    )
  )
  parts.append(
    markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
      (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_name
    )
  )
  for label, y in references.items():
    parts.append(
      markup(
        '<line class="reference" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="{}" y="{y}" dy="-5" text-anchor="end">{}</text>'
      ).format(LEFT, WIDTH - RIGHT, WIDTH - RIGHT, f'{label} {number(y)}', y=down(y))
    )
  line = ' '.join(f'{across(x)},{down(y)}' for x, y in points)
  parts.append(markup('<polyline class="curve" points="{}"/>').format(line))
  for (x, y), error in zip(points, errors, strict=True):
    if error:
      parts.append(
        markup('<line class="error" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
          down(y - error), down(y + error), x=across(x)
        )
      )
    text = f'{x_name} {number(round(x))}: {name} {number(y)}' + (
      f' ± {number(error)}' if error else ''
    )
    parts.append(
      markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        'mark' if len(points) <= 40 else 'hover', across(x), down(y), 4, text
      )
    )
  return markup('').join([*parts, markup('</svg>')])
