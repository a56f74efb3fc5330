"""The data that the commands of the documents read: a shop's log, also in Amazon's layout, and tiny checkpoints."""

import csv
import gzip
import json
import pathlib
import shutil

import numpy as np

from bench import shop_log
from tests.recjax.pretrained_runs_test import checkpoint

AMAZON = {'beauty': 'Beauty', 'sports': 'Sports_and_Outdoors'}
EARLY = '2026-04-20'  # the end of `plain`; `later` goes on to May
# Raw ids that the documents name.
NAMED = ('B004756YJA', 'B004ZT0SSG')


def write(folder: pathlib.Path, users: int = 150, items: int = 120) -> None:
  """Writes what the docstring of `docs_shell/rules.py` names."""
  shop_log.write(folder / 'shop', users=users, items=items)
  shop_log.write(folder / 'early', users=users, items=items, until=EARLY)
  shop_log.write(folder / 'odd', users=users, items=items, oddities=shop_log.ODDITIES)
  _with_usual_names(folder / 'early', folder / 'plain')
  _with_usual_names(folder / 'shop', folder / 'later')
  (folder / 'plain/histories.jsonl').write_text(json.dumps({'history': ['sku1', 'sku2']}) + '\n')
  for name, category in AMAZON.items():
    _amazon(folder / 'raw' / name, category, folder / 'shop')
  for kind in ('gemma3', 't5_v1_1'):
    checkpoint(folder, kind)
  np.save(folder / 'tokens.npy', np.arange(12, dtype=np.int32).reshape(2, 6))


def _with_usual_names(shop: pathlib.Path, folder: pathlib.Path) -> None:
  usual = {column: name for name, column in shop_log.COLUMNS.items()}
  folder.mkdir()
  for name in ('interactions.csv', 'items.csv'):
    with open(shop / name) as source, open(folder / name, 'w') as target:
      header = next(csv.reader([source.readline()]))
      csv.writer(target).writerow([usual.get(column, column) for column in header])
      shutil.copyfileobj(source, target)


def _amazon(folder: pathlib.Path, category: str, shop: pathlib.Path) -> None:
  folder.mkdir(parents=True)
  with open(shop / 'interactions.csv') as file:
    rows = list(csv.DictReader(file))
  ids = _ids(rows)
  reviews = [
    {
      'reviewerID': row['customer'],
      'asin': ids[row['sku']],
      'unixReviewTime': int(np.datetime64(row['when'].rstrip('Z'), 's').astype(int)),
      'overall': 5.0,
    }
    for row in rows
  ]
  _lines(folder / f'reviews_{category}_5.json.gz', reviews)
  with open(shop / 'items.csv') as file:
    items = [
      {'asin': ids.get(row['sku'], row['sku']), 'title': row['name'], 'description': row['about']}
      for row in csv.DictReader(file)
    ]
  _lines(folder / f'meta_{category}.json.gz', items)


def _ids(rows: list[dict]) -> dict[str, str]:
  """Returns ids in which the most frequent items have those that the documents name."""
  names, counts = np.unique([row['sku'] for row in rows], return_counts=True)
  frequent = names[np.argsort(-counts, kind='stable')]
  ids = {str(name): str(name) for name in names}
  return ids | dict(zip(map(str, frequent), NAMED, strict=False))


def _lines(path: pathlib.Path, rows: list[dict]) -> None:
  with gzip.open(path, 'wt') as file:
    file.writelines(json.dumps(row) + '\n' for row in rows)
