"""Reads Amazon Beauty independently of the program, as input of test oracles."""

import collections
import functools
import gzip
import json

from tests.shared_data import SHARED

FOLDER = SHARED / 'amazon2014' / 'beauty'


def _lines(name: str) -> list[dict]:
  with gzip.open(FOLDER / f'{name}.json.gz', 'rt', encoding='utf-8') as f:
    return [json.loads(line) for line in f]


@functools.cache
def lists() -> tuple[list[list[int]], int]:
  """The sequence of every user, as item numbers in the order of raw ids; and I."""
  histories = collections.defaultdict(list)
  for row in _lines('reviews_Beauty_5'):
    histories[row['reviewerID']].append((row['unixReviewTime'], row['asin']))
  number = {asin: n for n, asin in enumerate(sorted({a for h in histories.values() for _, a in h}))}
  ordered = (sorted(histories[user], key=lambda row: row[0]) for user in sorted(histories))
  return [[number[asin] for _, asin in history] for history in ordered], len(number)


def train_lists() -> tuple[list[list[int]], int]:
  """The training part of every user, s[:-2], as item numbers in the order of raw ids; and I."""
  rows, num_items = lists()
  return [row[:-2] for row in rows], num_items


@functools.cache
def titles() -> list[str]:
  """The titles in the catalogue's file, those of the log and others."""
  return [row.get('title', '') for row in _lines('meta_Beauty')]
