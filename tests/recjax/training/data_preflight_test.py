"""What is refused and what is warned of before the first step, on the tiny world and the rated world."""

import dataclasses
import re
import types

import numpy as np
import pytest

from recjax import train
from recjax.data.sequences import Sequences
from recjax.data.tasks.next_item import NextItem
from recjax.sids.table import SidTable
from recjax.training import data_preflight as preflight


def data(codes, histories, targets, **fields):
  """A data set in small: the codes of its items, and rows that are the same in both splits."""
  codes = np.array(codes, np.int32)
  fields = {'collisions': 'deduplicate', **fields}
  return types.SimpleNamespace(
    sids=SidTable(codes, tuple((codes.max(axis=0) + 1).tolist()), 'kmeans', **fields),
    sid_description=None,
    num_items=len(codes),
    folder='data',
    targets=lambda _: np.array(targets),
    num_rows=lambda _: len(targets),
    statistics=None,
    seen=lambda _: Sequences.from_lists(histories),
  )


CODES = [[n // 10, n % 10, 0] for n in range(100)]
ROWS = [[0, 1], [2]] * 40
TARGETS = [5, 6] * 40


def check(codes=CODES, histories=ROWS, targets=TARGETS, exclude_seen=True, rows=2000, **fields):
  preflight.check_dataset(data(codes, histories, targets, **fields), exclude_seen, rows)


def test_ordinary_data_pass_without_a_word(caplog):
  check()
  check(targets=[0, 5] * 40)  # half of them are in their own history
  check(targets=[0, 2] * 40, exclude_seen=False)
  assert not caplog.records


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'codes': [[0, 0, n] for n in range(9)]},
      'all 9 items have equal codes.*--config.sids.source',
    ),
    ({'codes': [[0, 0]] * 9, 'collisions': 'keep'}, 'all 9 items have equal codes'),
    ({'targets': [], 'histories': []}, 'the validation part must have at least one row'),
    ({'targets': [5, 100] * 40}, '40 of 80 in data are not'),
    ({'targets': [0, 2] * 40}, 'all 80 targets are items of their own history.*exclude_seen=False'),
  ],
)
def test_data_that_nothing_can_be_learnt_from_are_refused(changes, message):
  with pytest.raises(ValueError, match=message) as error:
    check(**changes)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'codes': [[max(n - 30, 0), 0, n if n < 31 else 0] for n in range(100)]}, '31 of 100 items have equal quant'),
    ({'codes': CODES[:98] + [[0, 0, 0]] * 2, 'collisions': 'keep'}, '3 of 100 items share their semantic ID'),
    ({'rows': 3}, 'has 3 rows, so the standard error of its recall is up to 0.29'),
    ({'targets': TARGETS[:4], 'histories': ROWS[:4]}, 'the test part has 4 rows.*up to 0.25'),
  ],
)  # fmt: skip
def test_doubtful_data_are_warned_of(changes, message, caplog):
  check(**changes)
  assert any(re.search(message, record.getMessage()) for record in caplog.records)


def checked(config, dataset, searched=True, examples=10**6, **changes):
  """Checks the stream of a config with other fields of next_item, and with other components."""
  fields = {k: v for k, v in changes.items() if k not in ('others', 'row_length')}
  next_item = dataclasses.replace(config.mixture['next_item'], **fields)
  packing = dataclasses.replace(config.packing, row_length=changes.get('row_length', 256))
  mixture = {'next_item': next_item, **changes.get('others', {})}
  config = dataclasses.replace(config, mixture=mixture, packing=packing)
  stream = train.make_stream(config, dataset)
  preflight.check_stream(stream, examples, next_item if searched else None)
  return stream


def test_every_task_of_the_rated_world_passes(rated, caplog):
  config, dataset = rated
  others = {n: part for n, part in config.mixture.items() if n != 'next_item'}
  stream = checked(config, dataset, others=others, row_length=config.packing.row_length)
  assert [record.getMessage() for record in caplog.records] == []
  tokens = stream.mixture.corpus.sid_tokens_IL - dataset.vocabulary.space.sid_start
  assert preflight.seen_tokens(stream)[tokens].all()


def other(**fields):
  return NextItem(max_items=4, **fields)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'loss_weight': 0.0}, "positive loss_weight; got {'next_item': 0.0}"),
    ({'loss_weight': 0.0, 'others': {'other': other()}}, 'next_item must be trained.*it has loss_weight 0'),
    ({'weight': 0.0, 'schedule': ((0, 0.0), (10**7, 1.0)), 'others': {'other': other()}},
     'next_item must be trained.*no example in this training. Set --config.mixture.next_item.schedule'),
    ({'show': 'title', 'title_tokens': 1, 'titles': 'equal'}, 'titles must tell items apart in mixture.next_item'),
    ({'learn': 'title'}, "mixture.next_item.learn must be sid or both.*got 'title'. Set --config.mixture.next_item.learn"),
  ],
)  # fmt: skip
def test_a_mixture_that_trains_nothing_is_refused(tiny_world, changes, message):
  config, dataset = tiny_world
  if changes.pop('titles', None):
    words = Sequences(dataset.titles.values * 0 + 7, dataset.titles.offsets)
    dataset = dataclasses.replace(dataset)
    dataset.__dict__['titles'] = words
  with pytest.raises(ValueError, match=message):
    checked(config, dataset, **changes)


def test_learnt_titles_in_windows_win_over_histories_of_semantic_ids(tiny_world, caplog):
  config, dataset = tiny_world
  for fields in ({'show': 'both'}, {'show': 'sid'}):
    checked(config, dataset, learn='both', row_length=256, **fields)
  [record] = caplog.records
  assert (
    'mixture.next_item.learn=both wins over show=sid: histories show both' in record.getMessage()
  )


def test_components_without_effect_are_warned_of(tiny_world, caplog):
  config, dataset = tiny_world
  checked(config, dataset, others={'other': other(loss_weight=0.0)})
  checked(config, dataset, others={'late': other(weight=0.0, schedule=((10**7, 1.0),))})
  assert [record.getMessage() for record in caplog.records] == [
    'mixture.other is not trained: it has loss_weight 0',
    'mixture.late is not trained: it has no example in this training',
  ]


def test_rows_too_short_for_histories(tiny_world, caplog):
  config, dataset = tiny_world
  model = dataclasses.replace(config.model, family='t5', kv_heads=2)
  config = dataclasses.replace(config, model=model)
  with pytest.raises(
    ValueError, match=r'every item of the histories of mixture.next_item is cut off; got 3'
  ):
    checked(config, dataset, row_length=3)
  assert not caplog.records
  stream = checked(config, dataset, row_length=6)
  [record] = caplog.records
  sample = [example for _, example in stream.mixture.survey[0]][: preflight.SAMPLE]
  # An item has three tokens and the prompt one: one item fits.
  items = sum(len(example.history) for example in sample)
  fits = sum(min(len(example.history), 1) for example in sample)
  assert f'cuts histories: {100 * (1 - fits / items):.0f}% of' in record.getMessage()


def test_seen_tokens_are_those_of_the_training_sequences(tiny_world):
  config, dataset = tiny_world
  stream = checked(config, dataset)
  tokens = stream.mixture.corpus.sid_tokens_IL[np.unique(dataset.train.values)]
  space = dataset.vocabulary.space
  expected = np.isin(np.arange(space.sid_start, space.size), tokens)
  np.testing.assert_array_equal(preflight.seen_tokens(stream), expected)
