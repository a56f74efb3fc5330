"""The peer of `bench.input`: a map-style data set that writes each example as text and tokenizes it on access."""

import re
import time

import numpy as np

from recjax import config as config_lib
from recjax import train
from recjax.data.dataset import Dataset
from recjax.data.tasks import base

BATCH = 256
_SID = re.compile(r'(<[a-z]_\d+>)')


class Texts:
  """A data set for torch's DataLoader. Element n holds the token ids of input and target of the n-th example."""

  def __init__(self, config: config_lib.Config, dataset: Dataset):
    self._mixture = train.make_mixture(config, dataset)
    self._corpus = self._mixture.corpus
    self._dataset = dataset
    self._items = dataset.items
    space = dataset.vocabulary.space
    self._ids = {name: space.sid_start + n for n, name in enumerate(space.sid_names)}
    self._names = [
      ''.join(f'<{chr(97 + level)}_{code}>' for level, code in enumerate(codes))
      for codes in dataset.sids.codes_IL
    ]
    self._descriptions = {e['token']: e['description'] for e in dataset.keywords or ()}
    self._described = list(self._descriptions)

  def __len__(self) -> int:
    return 10**12

  def __getitem__(self, n: int) -> tuple[list[int], list[int]]:
    p, draw, unit = self._mixture.locate(n)
    component = self._mixture.parts[p].component
    inputs, targets = self._text(component, unit, draw)
    return self._encode(inputs), self._encode(targets)

  def _encode(self, text: str) -> list[int]:
    ids = []
    for n, part in enumerate(_SID.split(text)):
      if n % 2:
        ids.append(self._ids[part])
      elif part:
        ids.extend(self._dataset.vocabulary.encode(part))
    return ids

  def _text(self, component: base.Component, unit: int, draw: int) -> tuple[str, str]:
    prompt = component.prompt(base.Draw(0, draw))
    if isinstance(component, base.HistoryComponent):
      return self._history_text(component, prompt, unit)
    if 'token' in component.task:
      token = self._described[unit]
      places = {'token': token, 'description': self._descriptions[token]}
      prompt = prompt.format(**{name: places[name] for name in component.places})
      return (
        (prompt, token) if component.places == ('description',) else (prompt, places['description'])
      )
    if 'neighbours' in component.task:
      item = int(self._corpus.related_items(component.task.removesuffix('_neighbours'))[unit])
      near = component.relation(self._corpus)[item][: component.k]
      return prompt.format(item=self._names[item]), ''.join(self._names[i] for i in near)
    item = int(self._corpus.titled_items[unit])
    title = self._items[item].get('title', self._items[item]['text'])
    if component.places == ('title',):
      return prompt.format(title=title), self._names[item]
    return prompt.format(item=self._names[item]), title

  def _history_text(
    self, component: base.HistoryComponent, prompt: str, unit: int
  ) -> tuple[str, str]:
    train = self._corpus.train
    if component.task in ('next_item', 'mim', 'mlm') and not self._corpus.is_encoder_decoder:
      start, size, _ = self._corpus.windows(component.max_items)[unit]
      items = train.values[start : start + size].tolist()
    else:
      first, position, _ = self._corpus.positions[unit]
      items = train.values[max(first, position + 1 - component.max_items) : position + 1].tolist()
    *history, target = items
    if component.task == 'mlm':
      titles = [self._items[i].get('title', '') for i in items]
      return prompt.format(history=' '.join(titles)), titles[-1]
    places = {'history': ''.join(self._names[i] for i in history)}
    if 'candidates' in component.places:
      others = np.random.default_rng(unit).integers(
        0, len(self._names), 9 if component.task == 'ranking' else 1
      )
      places['candidates'] = ''.join(self._names[i] for i in [target, *others])
    answer = self._names[target]
    if component.task == 'history_to_title':
      answer = self._items[target].get('title', '')
    return prompt.format(**places), answer


def collate(examples: list[tuple[list[int], list[int]]]) -> dict[str, np.ndarray]:
  """Returns a batch with one example per row, padded to the longest one."""
  rows = [inputs + targets for inputs, targets in examples]
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  weights = np.zeros(tokens.shape, np.float32)
  for b, (row, (inputs, _)) in enumerate(zip(rows, examples, strict=True)):
    tokens[b, : len(row)] = row
    weights[b, len(inputs) : len(row)] = 1
  return {'tokens': tokens, 'weights': weights}


def measure(config: config_lib.Config, seconds: float) -> dict[str, float] | None:
  """Measures speed and utilisation of padded batches; returns None if torch is not installed."""
  try:
    from torch.utils import data
  except ImportError:
    print('torch is not installed (the extra [bench]): the peer is skipped')
    return None
  texts = Texts(config, Dataset.load(config.prepared))
  batches = iter(data.DataLoader(texts, BATCH, shuffle=False, num_workers=0, collate_fn=collate))
  next(batches)
  start, count, used, cells = time.perf_counter(), 0, 0, 0
  while time.perf_counter() - start < seconds:
    batch = next(batches)
    count += BATCH
    used += int((batch['tokens'] > 0).sum())
    cells += batch['tokens'].size
  return {
    'examples_per_sec': count / (time.perf_counter() - start),
    'tokens_per_sec': used / (time.perf_counter() - start),
    'utilisation': used / cells,
  }
