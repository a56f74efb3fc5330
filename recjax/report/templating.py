"""Renders the HTML pages from the files in `templates/`; all texts are escaped."""

import functools

from etils import epath
import jinja2

from recjax.report import plots
from recjax.report.numbers import number, percent


def render(template: str, **values) -> str:
  """Returns an HTML page that needs no other file.

  Args:
    template: name of a file in `templates/` that extends `base.html.j2`.
    **values: variables of the template, beside `number`, `figures`, `percent` and `plot`, which places a
      specification of `recjax.report.plots`.
  """
  return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.FunctionLoader(_text),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=False,
  )
  environment.globals |= {
    'number': number,
    'figures': lambda value: f'{value:,}',
    'percent': functools.partial(percent, digits=2),
    'plot': plots.embed,
    'runtime': plots.runtime,
  }
  return environment


def _text(name: str) -> str:
  return (epath.resource_path('recjax.report') / 'templates' / name).read_text(encoding='utf-8')
