"""A small log with everything that tasks may ask for: times, ratings, events, titles, relations, keywords."""

import csv
import json
import pathlib

import numpy as np

from data_prep import prepare
from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.data.tasks import TASKS

USERS, ITEMS, LONGEST = 40, 24, 12
ADJECTIVES = ('red', 'blue', 'soft', 'dry', 'warm', 'light')
NOUNS = ('soap', 'brush', 'oil', 'towel')
DAY = 86_400


def rows(seed: int = 0, held_out_seed: int = 0) -> list[tuple[str, str, int, int, str]]:
  """User, item, time, rating and event of every interaction; the held-out items by a seed of their own."""
  rng, other = np.random.default_rng(seed), np.random.default_rng([held_out_seed, 1])
  table = []
  for u in range(USERS):
    length = int(rng.integers(5, LONGEST + 1))
    items = rng.permutation(ITEMS)[:length]
    items[0] = u % ITEMS  # every item occurs in training
    gaps = rng.choice([0, 1, 5, 20, 100, 900], length)
    held_out = other.integers(0, ITEMS, 2)
    for k, time in enumerate(np.cumsum(gaps).tolist()):
      item = int(held_out[k - length + 2]) if k >= length - 2 else int(items[k])
      rating, event = int(rng.integers(1, 6)), str(rng.choice(['view', 'buy']))
      table.append((f'u{u:02}', f'i{item:02}', time * DAY + k, rating, event))
  return table


def write_raw(folder: pathlib.Path, table: list[tuple[str, str, int, int, str]]) -> None:
  """The files of the `table` source and a table of semantic IDs (items 0 and 1 share theirs)."""
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / 'interactions.csv').open('w', newline='') as f:
    writer = csv.writer(f)
    writer.writerow(('user', 'item', 'time', 'rating', 'event'))
    writer.writerows(table)
  with (folder / 'items.csv').open('w', newline='') as f:
    writer = csv.writer(f)
    writer.writerow(('item', 'title', 'categories'))
    for i in range(ITEMS):
      title = f'{ADJECTIVES[i % 6]} {NOUNS[i // 6]} number {i}' if i != 23 else ''
      writer.writerow((f'i{i:02}', title, f'Home > {NOUNS[i // 6]}' if i != 23 else ''))
  sids = {f'i{i:02}': [f'<a_{i // 6}>', f'<b_{1 if i == 0 else i % 6}>'] for i in range(ITEMS)}
  (folder / 'sids.json').write_text(json.dumps(sids))


def config_dict(folder: pathlib.Path, out: str = 'prepared', family: str = 'gemma'):
  """A ConfigDict whose mixture holds every task, over `folder`/raw."""
  config = config_lib.defaults(source='table', name='rated')
  config.data.update(k_core=0, raw_dir=str(folder / 'raw'), prepared_dir=str(folder / out))
  config.data.text_pieces = 340
  config.sids.update(quantizer='import', table='sids.json', codes=(4, 6), encoder='tfidf')
  config.sids.update(tfidf_width=8)
  config.relations.top_k = 5
  config.model.family = family
  for task in TASKS:
    config.mixture[task] = config_lib.component(task)
  for task in ('collaborative_neighbours', 'semantic_neighbours'):
    config.mixture[task].k = 3
  config.mixture.ranking.candidates = 4
  config.mixture.next_item.max_items = 6
  config.packing.update(row_length=256, decoder_row_length=128, rows=4)
  config.batch_size = 32
  return config


def make_config(folder: pathlib.Path, out: str = 'prepared', family: str = 'gemma'):
  """The same, checked."""
  return config_lib.from_config_dict(config_dict(folder, out, family))


def prepared(folder: pathlib.Path, family: str = 'gemma', **table):
  """The config and the prepared data of the world."""
  write_raw(folder / 'raw', rows(**table))
  config = make_config(folder, family=family)
  prepare.prepare(config)
  return config, Dataset.load(config.prepared_folder)
