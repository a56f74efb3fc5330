"""Plots as Vega-Lite specifications (plain dicts), and their HTML.

The functions that return a `Spec` take figures of a report. `embed` places one on a page; `runtime` is placed
once at the end of the page and draws all of them without a network. Colours are the CSS variables of
`templates/page.css`, so that the plots are light or dark as the page. Every hover text is a string of the data.
"""

from collections.abc import Mapping, Sequence
import functools
import importlib.metadata
import logging
import os
from typing import Any

from etils import epath
import jinja2.utils
from markupsafe import Markup
import numpy as np
import vl_convert

from recjax.report.numbers import Point, number
from recjax.runtime.files import write_whole

log = logging.getLogger(__name__)

Spec = dict[str, Any]

HEIGHT = 260  # pixels of a plot with a free height
ROW = 18  # pixels of one bar or interval of a plot with one row each
MAX_MARKS = 40  # curves with more points have no dots
COLOURS = tuple(f'var(--series-{n})' for n in range(8))  # of the series, in order
REFERENCE = 'var(--other)'

_HOVER = {'field': 'hover', 'type': 'nominal'}
_AXIS = {
  'labelColor': 'var(--soft)', 'titleColor': 'var(--soft)', 'gridColor': 'var(--rule)', 'domainColor': 'var(--soft)',
  'tickColor': 'var(--soft)', 'titleFontWeight': 'normal', 'labelFontSize': 12, 'titleFontSize': 12,
  'labelLimit': 150, 'labelOverlap': 'greedy', 'labelSeparation': 8, 'tickCount': 6,
}  # fmt: skip
_CONFIG = {
  'background': 'transparent',
  'font': 'system-ui, sans-serif',
  'view': {'stroke': None},
  'axis': _AXIS,
  'legend': {
    'orient': 'top', 'direction': 'horizontal', 'columns': 3, 'labelColor': 'var(--ink)', 'title': None,
    'labelFontSize': 12, 'symbolType': 'circle', 'labelLimit': 150,
  },
  'range': {'category': list(COLOURS)},
}  # fmt: skip
_DRAW = """
for (const place of document.querySelectorAll('.plot')) {
  const [canvas, source] = place.children;
  const spec = JSON.parse(source.textContent);
  const tooltip = {theme: 'custom', disableDefaultStyle: true};
  vegaEmbed(canvas, spec, {mode: 'vega-lite', renderer: 'svg', actions: false, defaultStyle: false, tooltip})
    .catch(error => { canvas.textContent = 'This plot could not be drawn: ' + error; });
}
"""


def embed(spec: Spec) -> Markup:
  """Returns the element of a plot. Before `runtime` draws it, it holds a note; its texts are escaped."""
  note = 'Plots need JavaScript. The JSON file beside this page holds their figures.'
  return Markup(
    '<div class="plot" role="img" aria-label="{}"><div><p class="none">{}</p></div>'
    '<script type="application/json">{}</script></div>'
  ).format(spec['description'], note, jinja2.utils.htmlsafe_json_dumps(spec, allow_nan=False))


@functools.cache
def runtime() -> Markup:
  """Returns the scripts that draw every plot of a page: Vega, Vega-Lite and vega-embed, about 0.9 MB."""
  return Markup('<script>{}</script>\n<script>{}</script>').format(Markup(_bundle()), Markup(_DRAW))


def _bundle() -> str:
  """Returns the JavaScript of the runtime. Bundling takes seconds, so the user's cache keeps the result."""
  cache = epath.Path(os.environ.get('XDG_CACHE_HOME') or epath.Path('~/.cache').expanduser())
  path = cache / 'recjax' / f'vega-{importlib.metadata.version("vl-convert-python")}.js'
  try:
    return path.read_text()
  except OSError:  # not bundled before
    text = vl_convert.javascript_bundle()
  if '</script' in text.lower() or '<!--' in text:
    raise AssertionError('the bundle of vl_convert must not end the script element of a page')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
  except OSError as error:
    log.debug('%s is not kept: %s', path, error)
  return text


def _spec(description: str, layers: Sequence[Spec], **fields) -> Spec:
  shape = {'width': 'container', 'height': HEIGHT, 'autosize': {'type': 'fit-x', 'contains': 'padding'}}  # fmt: skip
  return {'description': description, **shape, 'config': _CONFIG, 'layer': list(layers)} | fields


def _quantity(field: str, title: str | None, zero: bool = False, **fields) -> Spec:
  encoding = {'field': field, 'type': 'quantitative', 'title': _line(title), 'scale': {'zero': zero, 'nice': True}}  # fmt: skip
  return encoding | fields


def _category(field: str, title: str | None, **fields) -> Spec:
  """A column of names in the order of the data."""
  return {'field': field, 'type': 'ordinal', 'title': _line(title), 'sort': None} | fields


def _line(name: str | None) -> str | None:
  """A name on one line: Vega puts names into expressions, which a line separator would end."""
  return name and ' '.join(name.split())


def _with_error(value: float, error: float) -> str:
  return f'{number(value)} ± {number(error)}' if error else number(value)


def curve(
  points: Sequence[Point],
  name: str,
  x_name: str = 'step',
  errors: Sequence[float] | None = None,
  references: Mapping[str, float] | None = None,
) -> Spec:
  """Returns one curve.

  Args:
    points: (x, y), x ascending; at least one.
    name: name of y.
    x_name: name of x.
    errors: the standard error of every point, drawn as a vertical bar.
    references: values to compare with, drawn as labelled horizontal lines.
  """
  errors = list(errors) if errors else [0.0] * len(points)
  values = [
    {'x': x, 'y': y, 'low': y - e, 'high': y + e, 'hover': f'{x_name} {number(round(x))}: {name} {_with_error(y, e)}'}
    for (x, y), e in zip(points, errors, strict=True)
  ]  # fmt: skip
  x = _quantity('x', x_name, scale={'zero': False, 'nice': False})
  y = _quantity('y', None)
  blue = COLOURS[0]
  layers = [
    {'mark': {'type': 'line', 'color': blue}, 'encoding': {'y': y}},
    {
      'mark': {'type': 'point', 'filled': True, 'size': 50 if len(points) <= MAX_MARKS else 0, 'color': blue},
      'encoding': {'y': y},
    },
    # A wide transparent mark shows the hover text near a point.
    {'mark': {'type': 'point', 'size': 300, 'opacity': 0, 'filled': True}, 'encoding': {'y': y, 'tooltip': _HOVER}},
  ]  # fmt: skip
  if any(errors):
    error = {'y': _quantity('low', None), 'y2': {'field': 'high'}}
    layers.insert(0, {'mark': {'type': 'rule', 'color': blue, 'opacity': 0.5}, 'encoding': error})
  layers = [layer | {'encoding': layer['encoding'] | {'x': x}} for layer in layers]
  return _spec(
    f'{name} over {x_name}',
    [*layers, *_references(references or {})],
    data={'values': values},
  )


def _references(references: Mapping[str, float]) -> list[Spec]:
  """Horizontal lines with names at the right end."""
  if not references:
    return []
  values = [{'y': y, 'name': name, 'hover': f'{name} {number(y)}'} for name, y in references.items()]  # fmt: skip
  y = _quantity('y', None)
  label = {'type': 'text', 'align': 'right', 'dx': -2, 'dy': -6, 'color': 'var(--soft)'}
  return [
    {
      'data': {'values': values},
      'mark': {'type': 'rule', 'color': REFERENCE, 'strokeDash': [5, 4]},
      'encoding': {'y': y, 'tooltip': _HOVER},
    },
    {
      'data': {'values': values},
      'mark': label,
      'encoding': {'y': y, 'x': {'value': 'width'}, 'text': {'field': 'hover'}, 'tooltip': _HOVER},
    },
  ]


def histogram(bars: Sequence[tuple[str, float]], name: str, x_name: str) -> Spec:
  """Returns bars of equal width.

  Args:
    bars: label and height of every bar, in order.
    name: name of the heights.
    x_name: name of the labels.
  """
  values = [{'x': x, 'y': y, 'hover': f'{x}: {number(y)} {name}'} for x, y in bars]
  encoding = {
    'x': _category('x', x_name, axis={'labelAngle': 0}),
    'y': _quantity('y', name, zero=True),
    'tooltip': _HOVER,
  }
  mark = {'mark': {'type': 'bar', 'color': COLOURS[0]}, 'encoding': encoding}
  return _spec(f'{name} by {x_name}', [mark], data={'values': values})


def timeline(
  counts: Sequence[int], first: int, last: int, name: str, marks: Mapping[str, int]
) -> Spec:
  """Returns bars of equal durations over time, in UTC.

  Args:
    counts: the height of every bar.
    first: the beginning of the first bar, seconds since 1970.
    last: the end of the last bar, seconds since 1970.
    name: name of the heights.
    marks: seconds since 1970 that vertical lines mark, by name.
  """
  width = max(last - first, 1) / len(counts)
  begins = [first + n * width for n in range(len(counts) + 1)]
  unit = 'D' if last - first >= 2 * 86400 else 'm'
  days = [str(np.datetime64(int(begin), 's').astype(f'M8[{unit}]')) for begin in begins]
  values = [
    {'x': 1000 * begins[n], 'end': 1000 * begins[n + 1], 'y': count, 'hover': f'{days[n]}: {number(count)} {name}'}
    for n, count in enumerate(counts)
  ]  # fmt: skip
  lines = [{'x': 1000 * second, 'name': text, 'row': n} for n, (text, second) in enumerate(marks.items())]  # fmt: skip
  x = {'field': 'x', 'type': 'temporal', 'title': 'date (UTC)', 'scale': {'type': 'utc'}}
  layers = [
    {
      'mark': {'type': 'bar', 'color': COLOURS[0], 'binSpacing': 1},
      'encoding': {
        'x': x,
        'x2': {'field': 'end'},
        'y': _quantity('y', name, zero=True),
        'y2': {'datum': 0},
        'tooltip': _HOVER,
      },
    }
  ]
  if lines:
    label = {'type': 'text', 'align': 'right', 'dx': -4, 'baseline': 'top', 'color': 'var(--ink)'}
    rows = {'field': 'row', 'type': 'ordinal', 'scale': {'range': [2, 18]}, 'axis': None}
    layers += [
      {'data': {'values': lines}, 'mark': {'type': 'rule', 'color': REFERENCE, 'strokeDash': [5, 4]}, 'encoding': {'x': x}},
      {'data': {'values': lines}, 'mark': label, 'encoding': {'x': x, 'y': rows, 'text': {'field': 'name'}}},
    ]  # fmt: skip
  return _spec(
    f'{name} over time',
    layers,
    data={'values': values},
    resolve={'scale': {'y': 'independent'}},
  )


def _by_group(groups: Sequence[str], **axis) -> tuple[Spec, Spec]:
  """Returns the encodings of rows with one mark a group: the colour, and the place with the hover text."""
  group = {'field': 'group', 'type': 'nominal', 'sort': None, 'scale': {'domain': list(groups)}}
  place = {
    'y': _category('row', None, axis={**axis, 'labelOverlap': False}),
    'yOffset': group,
    'tooltip': _HOVER,
  }
  return group | ({'legend': None} if len(groups) == 1 else {}), place


def grouped_bars(
  rows: Sequence[tuple[str, str, float, float]],
  name: str,
  hovers: Sequence[str] | None = None,
) -> Spec:
  """Returns horizontal bars with standard errors, side by side by group.

  Args:
    rows: (row, group, value, standard error), in order; the groups have the colours of the series.
    name: name of the values.
    hovers: more hover text for every row.
  """
  rows = [(row, _line(group), *rest) for row, group, *rest in rows]
  groups = list(dict.fromkeys(group for _, group, *_ in rows))
  values = [
    {'row': row, 'group': group, 'x': x, 'low': x - e, 'high': x + e,
     'hover': f'{row}, {group}: {name} {_with_error(x, e)}' + (f'\n{more}' if more else '')}
    for (row, group, x, e), more in zip(rows, hovers or [''] * len(rows), strict=True)
  ]  # fmt: skip
  colour, place = _by_group(groups)
  layers = [
    {'mark': 'bar', 'encoding': {**place, 'x': _quantity('x', name, zero=True), 'color': colour}},
    {
      'mark': {'type': 'rule', 'color': 'var(--ink)'},
      'encoding': {**place, 'x': _quantity('low', name, zero=True), 'x2': {'field': 'high'}},
    },
  ]
  return _spec(
    f'{name} by group',
    layers,
    data={'values': values},
    height={'step': ROW},
  )


def series(
  rows: Sequence[tuple[str | float, str, float, float]],
  name: str,
  x_name: str,
  hovers: Sequence[str] | None = None,
) -> Spec:
  """Returns one line a series over ordered buckets or numbers, with standard errors; a click on the legend singles one out.

  Args:
    rows: (bucket, series, value, standard error); buckets and series in order. If all buckets are numbers, the axis is one.
    name: name of the values.
    x_name: name of the buckets.
    hovers: more hover text for every row.
  """
  rows = [(x, _line(each), *rest) for x, each, *rest in rows]
  names = list(dict.fromkeys(each for _, each, *_ in rows))
  is_number = not any(isinstance(x, str) for x, *_ in rows)
  values = [
    {'x': x, 'series': each, 'y': y, 'low': y - e, 'high': y + e,
     'hover': f'{each}, {x_name} {number(x) if is_number else x}: {name} {_with_error(y, e)}' + (f'\n{more}' if more else '')}
    for (x, each, y, e), more in zip(rows, hovers or [''] * len(rows), strict=True)
  ]  # fmt: skip
  shared = {
    'x': _quantity('x', x_name) if is_number else _category('x', x_name, axis={'labelAngle': 0}),
    'color': {'field': 'series', 'type': 'nominal', 'sort': None, 'scale': {'domain': names}},
    'opacity': {'condition': {'param': 'chosen', 'value': 1}, 'value': 0.12},
  }
  y = _quantity('y', name, zero=True)
  layers = [
    {
      'params': [{'name': 'chosen', 'select': {'type': 'point', 'fields': ['series']}, 'bind': 'legend'}],
      'mark': 'line',
      'encoding': shared | {'y': y},
    },
    {
      'mark': 'rule',
      'encoding': shared | {'y': _quantity('low', name, zero=True), 'y2': {'field': 'high'}},
    },
    {
      'mark': {'type': 'point', 'filled': True, 'size': 60},
      'encoding': shared | {'y': y, 'tooltip': _HOVER},
    },
  ]  # fmt: skip
  return _spec(f'{name} by {x_name}', layers, data={'values': values})


def intervals(
  rows: Sequence[tuple[str, str, float, float, float]], name: str, zero: bool = True
) -> Spec:
  """Returns one confidence interval a row, horizontally.

  Args:
    rows: (row, group, value, low, high), in order; the groups have the colours of the series.
    name: name of the values.
    zero: draws a vertical line at 0.
  """
  rows = [(row, _line(group), *rest) for row, group, *rest in rows]
  groups = list(dict.fromkeys(group for _, group, *_ in rows))
  values = [
    {'row': row, 'group': group, 'x': x, 'low': low, 'high': high,
     'hover': f'{row}, {group}: {name} {number(x)} ({number(low)} to {number(high)})'}
    for row, group, x, low, high in rows
  ]  # fmt: skip
  colour, place = _by_group(groups, grid=True)
  place['color'] = colour
  layers = [
    {'mark': {'type': 'rule', 'strokeWidth': 2},
     'encoding': {**place, 'x': _quantity('low', name), 'x2': {'field': 'high'}}},
    {'mark': {'type': 'point', 'filled': True, 'size': 60, 'opacity': 1},
     'encoding': {**place, 'x': _quantity('x', name)}},
  ]  # fmt: skip
  if zero:
    line = {'type': 'rule', 'color': REFERENCE, 'strokeDash': [5, 4]}
    layers.append({'data': {'values': [{}]}, 'mark': line, 'encoding': {'x': {'datum': 0}}})
  return _spec(f'{name} with intervals', layers, data={'values': values}, height={'step': ROW})


def scatter(
  points: Sequence[Point], colours: Sequence[str], hovers: Sequence[str], description: str
) -> Spec:
  """Returns points without axes.

  Args:
    points: x and y of every point.
    colours: the CSS colour of every point.
    hovers: the hover text of every point.
    description: a sentence about the plot, read out by screen readers.
  """
  values = [
    {'x': x, 'y': y, 'colour': colour, 'hover': hover}
    for (x, y), colour, hover in zip(points, colours, hovers, strict=True)
  ]
  encoding = {
    'x': _quantity('x', None, axis=None),
    'y': _quantity('y', None, axis=None),
    'color': {'field': 'colour', 'type': 'nominal', 'scale': None},
    'tooltip': _HOVER,
  }
  mark = {'type': 'circle', 'size': 22, 'opacity': 0.75}
  return _spec(
    description, [{'mark': mark, 'encoding': encoding}], data={'values': values}, height=420
  )
