"""The made-up log of a shop: its counts, its order, and that an earlier log is the beginning of a later one."""

import collections
import csv
import itertools
import pathlib

import numpy as np

from bench import shop_log


def read(path: pathlib.Path) -> list[dict[str, str]]:
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def write(folder, **changes):
  counts = shop_log.write(folder, **({'users': 200, 'items': 60, 'seed': 3} | changes))
  return counts, read(folder / 'interactions.csv'), read(folder / 'items.csv')


def test_a_log_without_oddities_has_unique_keys_and_known_items(tmp_path):
  counts, rows, items = write(tmp_path)
  assert set(rows[0]) >= {
    shop_log.COLUMNS[name] for name in ('user', 'item', 'time', 'event', 'rating')
  }
  assert len(rows) == counts['rows'] == len({(r['customer'], r['sku'], r['when']) for r in rows})
  assert {row['sku'] for row in rows} <= {item['sku'] for item in items}
  assert [row['when'] for row in rows] == sorted(row['when'] for row in rows)
  assert len({row['customer'] for row in rows}) == 200 and len(items) == 60
  assert all(item['name'] for item in items)
  actions = collections.Counter(row['action'] for row in rows)
  assert actions == {'view': counts['views'], 'purchase': counts['purchases']}
  assert 0 < sum(row['stars'] != '' for row in rows) == counts['rated'] < counts['purchases']


def test_oddities_are_counted(tmp_path):
  counts, rows, items = write(tmp_path, oddities=shop_log.ODDITIES)
  known = {item['sku'] for item in items}
  keys = collections.Counter(tuple(row.values()) for row in rows)
  assert sum(n - 1 for n in keys.values()) == counts['equal_keys'] > 0
  unknown = {tuple(row.values()) for row in rows if row['sku'] not in known}
  assert len(unknown) == counts['unknown_items'] > 0
  assert sum(item['name'] == '' for item in items) == counts['no_text'] > 0


def test_the_order_can_be_learnt_exactly_if_it_is_asked_for(tmp_path):
  shares = []
  for order in (0.9, 0.0):
    _, rows, _ = write(tmp_path / f'{order}', order=order)
    walks = collections.defaultdict(list)
    for row in rows:
      sku = int(row['sku'].removeprefix('sku')) - 1
      walks[row['customer']] += [sku] if walks[row['customer']][-1:] != [sku] else []
    departments, styles = 6, 3  # of 60 items, whatever their order
    steps = np.array([step for walk in walks.values() for step in itertools.pairwise(walk)])
    is_next = (steps[:, 0] % departments + 1) % departments == steps[:, 1] % departments
    is_same = steps[:, 0] // departments % styles == steps[:, 1] // departments % styles
    shares.append(np.mean(is_next & is_same))
  assert shares[0] > 0.5 and shares[1] < 0.15


def test_an_earlier_log_is_the_beginning_of_a_later_one(tmp_path):
  _, rows, items = write(tmp_path / 'all', users=20)
  moment = rows[len(rows) // 4]['when']
  _, early, early_items = write(tmp_path / 'early', users=20, until=moment.replace(' ', 'T'))
  assert early == [row for row in rows if row['when'] < moment]
  met_later = {row['sku'] for row in rows} - {row['sku'] for row in early}
  assert met_later and {i['sku'] for i in items} - {i['sku'] for i in early_items} == met_later


def test_a_later_log_repeats_the_oddities_of_an_earlier_one(tmp_path):
  _, rows, items = write(tmp_path / 'all', oddities=shop_log.ODDITIES)
  moment = rows[len(rows) // 2]['when']
  counts, early, early_items = write(
    tmp_path / 'early', oddities=shop_log.ODDITIES, until=moment.replace(' ', 'T')
  )
  assert early == [row for row in rows if row['when'] < moment]
  assert [item for item in items if item in early_items] == early_items
  assert min(counts.values()) > 0
