"""Sentences about suspicious logs, each made for one of them."""

import dataclasses

import numpy as np
import pytest

from data_prep.log.raw_log import RawLog
from recjax.report.data.facts import facts
from recjax.report.data.suspicions import suspicions
from tests.recjax.report.data import logs

NOW = 1_800_000_000  # 2027
DAY = 86_400
START = 1_600_000_000  # 2020


def usual(users=600, events=('buy',)):
  """Returns the rows of a log that is not suspicious: every user meets four of seven items."""
  return [
    (f'u{u}', f'i{(u + 2 * n) % 7}', START + (u + n) * DAY, events[(u + n) % len(events)], 3.0)
    for u in range(users)
    for n in range(4)
  ]


@pytest.fixture
def found(tiny_world, tmp_path):
  """A function: rows → sentences, with fields of the config's sections changed."""

  def of(rows, records=None, split='leave_one_out', sections=None, **kwargs):
    config, _ = tiny_world
    config = dataclasses.replace(
      config, data=dataclasses.replace(config.data, item_text='original')
    )
    for name, fields in (sections or {}).items():
      config = dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **fields)}
      )
    log, data = logs.prepared(tmp_path, rows, split, records, **kwargs)
    return suspicions(facts(log, data), config, NOW)

  return of


def test_a_usual_log_is_not_suspicious(found):
  assert found(usual()) == []


def changed_times(change):
  return [(user, item, change(time), *rest) for user, item, time, *rest in usual()]


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (
      lambda time: START,
      'All interactions have the same time, 2020-09-13T12:26:40: their order is',
    ),
    (lambda time: START + (time - START) // (600 * DAY), '100 % of the interactions have the same'),
    (lambda time: time - START, 'The first interaction is dated 1970-01-01T00:00:00, before 1990'),
    (lambda time: time * 2, 'in the future: the unit of the times is probably another one'),
  ],
)
def test_times_that_cannot_be_are_told(found, change, sentence):
  texts = found(changed_times(change))
  assert len(texts) == 1 and sentence in texts[0]


def test_the_times_of_a_synthetic_world_are_not_suspicious(found):
  assert found(changed_times(lambda time: time - START), sections={'data': {'item_text': 'synthetic'}}) == []  # fmt: skip


def test_one_user_with_much_of_the_log_is_told(found):
  robot = [('robot', f'i{n}', START + n, 'buy', 1.0) for n in range(2000)]
  (text,) = found(usual() + robot)
  assert text.startswith("User 'robot' has 45 % of all interactions: probably a robot")


def test_one_item_with_much_of_the_log_is_told(found):
  rows = [(u, 'bag' if n % 2 else i, *rest) for n, (u, i, *rest) in enumerate(usual())]
  text = found(rows, sections={'eval': {'exclude_seen': False}})[0]
  assert text.startswith("Item 'bag' has 50 % of all interactions: probably a placeholder")


def test_events_that_look_like_views_are_told_unless_they_are_context(found, tmp_path):
  rows = usual(events=('page_view', 'page_view', 'page_view', 'purchase'))
  (text,) = found(rows)
  assert text.startswith("75 % of the interactions are 'page_view', and all kinds")
  assert '''--config.data.events="('purchase',)"''' in text
  assert '''--config.data.context_events="('page_view',)"''' in text


def test_every_other_kind_is_proposed_as_context(found):
  (text,) = found(usual(events=('view', 'view', 'view', 'view', 'wish', 'purchase')))
  assert "--config.data.context_events=\"('view', 'wish')\"" in text


def test_views_as_context_are_not_suspicious(found):
  rows = usual(events=('view', 'view', 'buy')) + [(f'u{n}', f'i{k}', START + (900 + k) * DAY, 'buy', 1.0) for n in range(600) for k in (0, 1, 2)]  # fmt: skip
  assert not [text for text in found(rows, context=('view',)) if 'view' in text]


def test_repeated_targets_are_told_while_seen_items_are_removed(found):
  rows = [(user, 'i0', time, *rest) for user, _, time, *rest in usual()]
  rows += [(f'u{u}', 'i1', START + 999 * DAY, 'buy', 1.0) for u in range(60)]
  texts = [text for text in found(rows) if 'own history' in text]
  assert texts == [
    '600 of 600 validation targets (100.0 %) and 540 of 600 test targets (90.0 %) are in their own history, and '
    'eval.exclude_seen removes them: recall cannot exceed 0.000 and 0.100. Set --config.eval.exclude_seen=False to '
    'predict repeated interactions.'
  ]


def test_items_without_texts_are_told_where_texts_are_used(found):
  (text,) = found(usual(), records={'i0': {'title': 'x'}})
  assert text.startswith(
    '6 of 7 items (86 %) have no text, and the semantic IDs are made from texts'
  )


def test_texts_may_lack_where_they_are_not_used(found):
  assert found(usual(), records={}, sections={'sids': {'source': 'cooccurrence'}}) == []


def test_a_few_rows_are_told_with_their_standard_error(found):
  texts = found(usual(users=36))
  assert texts == [
    'The validation split has 36 rows: a recall of 0.1 has a standard error of 0.050, so differences below 0.10 '
    'may be chance.'
  ]


def test_ids_that_differ_only_by_case_are_told(found):
  rows = [(user.upper() if user == 'u7' and n % 2 else user, *rest) for n, (user, *rest) in enumerate(usual())]  # fmt: skip
  rows += [('U7', f'i{n}', START + n, 'buy', 1.0) for n in range(2)] + [('u7', 'i6', START, 'buy', 1.0)]  # fmt: skip
  (text,) = [text for text in found(rows) if 'ids' in text]
  assert text.startswith('2 ids of users differ from another one only by case or by white space')
  assert "such as 'U7' and 'u7'" in text


def test_unreadable_ratings_are_told(tmp_path, tiny_world):
  config, _ = tiny_world
  users, items, times = (np.array(column) for column in list(zip(*usual(), strict=True))[:3])
  raw = RawLog(users, items, times, {}, unreadable_ratings=1200)
  found = facts(*logs.written(tmp_path, raw, 'leave_one_out'))
  texts = [text for text in suspicions(found, config, NOW) if 'ratings' in text]
  assert len(texts) == 1 and texts[0].startswith('1,200 ratings are no numbers, so the log is read')


def test_new_items_and_a_small_core_are_told(found):
  rows = usual() + [(f'x{n}', f'y{n}', START, 'buy', 1.0) for n in range(9000)]
  rows += [(f'u{u}', f'new{u % 2}', START + 2000 * DAY + u, 'buy', 1.0) for u in range(600)]
  texts = found(rows, split='global_time', k_core=3, shares=(0.7, 0.1, 0.2))
  assert texts[0].startswith('The k-core leaves out 9,000 of 12,000 interactions (75 %)')
  assert 'are items without a training interaction' in texts[1]
