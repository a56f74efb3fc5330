"""The table of all fields."""

import dataclasses
import re

from data_prep import sources
from recjax import config as config_lib
from recjax.data.tasks import TASKS
from recjax.schema import conversion
from recjax.schema.conversion import known_paths
from recjax.schema.describe import describe, meaning


def config():
  d = config_lib.defaults(source='synthetic', name='world')
  d.mixture.extra = config_lib.component('mim', weight=0.5)
  d.optim.groups = config_lib.ordered(
    tables=config_lib.group('tables'), rest=config_lib.group('.', frozen=True)
  )
  d.stages = config_lib.ordered(first=config_lib.stage(10), second=config_lib.stage(20))
  return config_lib.from_config_dict(d)


def test_the_table_lists_every_field_once():
  made = config()
  text = describe(made)
  leaves = [
    path
    for path in known_paths(config_lib.Config, made.to_dict(), config_lib.choose)
    if not any(
      other.startswith(f'{path}.')
      for other in known_paths(config_lib.Config, made.to_dict(), config_lib.choose)
    )
  ]
  assert 'mixture.extra.weight' in leaves
  assert 'stages.second.num_train_steps' in leaves
  for path in leaves:
    if path.endswith('.groups'):
      continue  # a title, not a field
    assert len(re.findall(rf'^  {re.escape(path)}  ', text, re.MULTILINE)) == 1, path


def test_a_line_holds_value_choices_and_meaning():
  lines = {line.split()[0]: line for line in describe(config()).splitlines() if line}
  assert re.search(
    r"'cosine' +cosine \| linear \| constant \| inverse_sqrt +Learning rate",
    lines['optim.schedule'],
  )
  assert re.search(r'4 +int, positive +Layers', lines['model.depth'])
  assert re.search(r'None +path \| None +Folder of the raw files', lines['data.raw_dir'])
  assert re.search(r'float, in \[0, 1\)', lines['model.dropout'])
  assert (
    'stages.first.groups.<name>.pattern' in lines
  )  # named sections that are not set show their fields
  assert 'a | b' in describe(config(), {'data.source': ('a', 'b')})


def test_every_meaning_is_a_sentence():
  def sections(kind):
    yield kind
    for hint in conversion.hints(kind).values():
      hint = conversion.item_type(hint) or hint
      if dataclasses.is_dataclass(hint):
        yield from sections(hint)

  for kind in (*sections(config_lib.Config), *TASKS.values(), *sources.SOURCES.values()):
    assert kind.__doc__
    for field in dataclasses.fields(kind):
      if not dataclasses.is_dataclass(conversion.hints(kind)[field.name]):
        text = meaning(kind, field.name)
        assert re.fullmatch(r'[A-Z].*\.', text), (kind, field.name, text)
