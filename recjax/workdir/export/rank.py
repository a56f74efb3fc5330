"""Recommends items with the search in this folder. Needs jax alone, in the version that bundle.json names.

As a command: every line of a file is a JSON object with "history", raw item ids, oldest first.

  python FOLDER/rank.py histories.jsonl ranked.jsonl --k=10

In Python, with this folder on the path:

  from rank import Recommender
  Recommender().recommend([['sku1', 'sku2']], k=10)
"""

import argparse
import json
import pathlib
import sys

import history_rows
import jax
import loader
import numpy as np
import sums


class Recommender:
  """Ranks the catalogue for histories.

  Args:
    folder: a bundle; None: the folder of this file.
    check: whether to compare every file with SHA256SUMS.
  """

  def __init__(self, folder=None, check=True):
    self._folder = folder = pathlib.Path(folder or pathlib.Path(__file__).parent)
    if check:
      sums.check(folder)
    read = lambda name: (folder / name).read_text(encoding='utf-8')  # noqa: E731
    self._bundle, self._prompt = json.loads(read('bundle.json')), json.loads(read('prompt.json'))
    if jax.__version__ != self._bundle['jax']:
      print(
        f'this bundle was made with jax {self._bundle["jax"]}; this is {jax.__version__}',
        file=sys.stderr,
      )
    self.items = [json.loads(line) for line in read('items.jsonl').split('\n') if line]
    self.index = {item['item']: n for n, item in enumerate(self.items)}
    self._values = loader.load(folder)
    self._searches = {}

  @property
  def columns(self):
    """The columns that prompts show or that tell seen items from context: `times`, `events`, both or none."""
    prompt = self._prompt
    is_told = prompt['exclude_seen'] and prompt['target_events'] is not None
    read = {'times': prompt['gaps'], 'events': prompt['events'] or is_told}
    return [name for name, is_read in read.items() if is_read]

  @property
  def beams(self):
    """The numbers of beams of which a call may choose one, the default first."""
    return tuple(self._bundle['beams'])

  def recommend(
    self,
    histories,
    k=10,
    exclude=(),
    times=None,
    events=None,
    unknown='error',
    within=None,
    beams=None,
  ):
    """Returns for each history a list of `{'item', 'title', 'score'}`, best first.

    Args:
      histories: lists of raw item ids, oldest first. Their items are not recommended, unless the run allows it.
      k: number of items, at most the beams.
      exclude: raw ids of items that are not recommended either.
      times: seconds since 1970, lists aligned with the histories; read only by a model that shows gaps.
      events: kinds of the interactions, likewise; read only by a model that shows or tells them.
      unknown: 'error', or 'skip' to leave out items that are not in the catalogue.
      within: raw ids of the only items that are recommended; others that are not in the catalogue have no effect. None:
        all items.
      beams: one of `beams`. None: the first of them.

    Raises:
      ValueError: an item or an event is unknown, or an argument does not fit.
    """
    beams = self.beams[0] if beams is None else beams
    if beams not in self.beams:
      raise ValueError(f'beams must be {" or ".join(map(str, self.beams))}; got {beams}')
    if not 1 <= k <= beams:
      raise ValueError(f'k must be from 1 to {beams}, the beams of the search; got {k}')
    mask_1W = self._mask(within)
    none = [None] * len(histories)
    columns = zip(histories, times or none, events or none, strict=True)
    rows = [self._row(n, *column, unknown == 'skip') for n, column in enumerate(columns)]
    hidden = self._known(exclude)
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n]['history']))
    found, size = [None] * len(rows), max(self._bundle['batches'])
    for start in range(0, len(rows), size):
      chosen = order[start : start + size]
      ranked = self._rank([rows[n] for n in chosen], hidden, mask_1W, beams)
      for n, items, scores in zip(chosen, *ranked, strict=False):
        pairs = [(self.items[i], s) for i, s in zip(items[:k], scores[:k], strict=True) if i >= 0]
        found[n] = [{'item': i['item'], 'title': i['title'], 'score': float(s)} for i, s in pairs]
    return found

  def _known(self, ids):
    """Returns the indices of the ids that are in the catalogue."""
    ids = [str(id_) if type(id_) is int else id_ for id_ in ids]
    return [self.index[id_] for id_ in ids if isinstance(id_, str) and id_ in self.index]

  def _mask(self, within):
    """Returns the packed bits of items, uint32 `[1, W]`; None: every item, with all bits set."""
    is_in = np.full(32 * self._bundle['words'], within is None)
    if within is not None:
      is_in[self._known(within)] = True
      if not is_in.any():
        must = 'within must leave at least one item of items.jsonl; none of its ids is there'
        raise ValueError(must)
    return np.packbits(is_in, bitorder='little').view('<u4').astype(np.uint32)[None]

  def _row(self, n, history, times, events, skip_unknown):
    """Returns the arrays of one history: item indices, their gaps and kinds (-1: none), the seen items."""
    prompt, ids = self._prompt, [str(i) if type(i) is int else i for i in history]
    for name, values in (('times', times), ('events', events)):
      if values is not None and len(values) != len(ids):
        raise ValueError(f'history {n}: {name} must have one value per item of the history')
    kept = [at for at, item in enumerate(ids) if isinstance(item, str) and item in self.index]
    if len(kept) < len(ids) and not skip_unknown:
      item = next(item for at, item in enumerate(ids) if at not in kept)
      raise ValueError(f'history {n}: every item must be in items.jsonl; {item!r} is not')
    row = {'history': np.array([self.index[ids[at]] for at in kept], np.int32)}
    row |= {name: np.full(len(kept), -1, np.int32) for name in ('gaps', 'events')}
    if prompt['gaps'] and times is not None and kept:
      if not all(isinstance(time, int | float) and abs(time) < 2**63 for time in times):
        raise ValueError(f'history {n}: times must be numbers of seconds; got {str(times)[:80]}')
      limits = [gap['up_to'] or np.inf for gap in prompt['gaps']]
      row['gaps'][1:] = np.searchsorted(limits, np.diff([int(times[at]) for at in kept]))
    names, targets = prompt['event_names'], prompt['target_events']
    is_seen = np.full(len(kept), prompt['exclude_seen'])
    if events is not None and 'events' in self.columns:
      if unknown := [events[at] for at in kept if events[at] not in names]:
        raise ValueError(f'history {n}: every event must be one of {names}; got {unknown[0]!r}')
      row['events'][:] = [names.index(events[at]) for at in kept]
      if targets:
        is_seen &= np.isin([events[at] for at in kept], targets)
    return row | {'seen': row['history'][is_seen]}

  def _rank(self, rows, hidden, mask_1W, beams):
    """Returns items and scores `[rows, beams]`; the smallest compiled search with room for the rows is called."""
    longest = min(max(len(row['history']) for row in rows), self._bundle['shown'][-1])
    batch = next(size for size in self._bundle['batches'] if size >= len(rows))
    shown = next(items for items in self._bundle['shown'] if items >= longest)
    excluded = [np.concatenate([row['seen'], hidden]).astype(np.int32) for row in rows]
    width = max(
      self._bundle['least'], *(len(x) for x in excluded), *(len(r['history']) for r in rows)
    )
    width = 1 << (width - 1).bit_length()
    columns = self._bundle['request']
    request = {n: np.full((batch, width), -1, np.int32) for n in (*columns, 'excluded')}
    for b, row in enumerate(rows):
      request['excluded'][b, : len(excluded[b])] = excluded[b]
      for name in columns:
        request[name][b, width - len(row[name]) :] = row[name]  # the last column is the latest item
    request |= {'within': mask_1W, 'mask': np.zeros(batch, np.int32)}
    name = self._bundle['search'].format(batch=batch, shown=shown, beams=beams)
    if name not in self._searches:
      self._searches[name] = loader.function(self._folder / name)
    found = self._searches[name](self._values | request)
    return np.asarray(found['items'])[: len(rows)], np.asarray(found['scores'])[: len(rows)]


def main():
  parser = argparse.ArgumentParser(description='Ranks items for the histories of a file.')
  parser.add_argument('histories', help='JSON lines with "history": raw item ids')
  parser.add_argument('out', help='file to write, JSON lines')
  parser.add_argument('--k', type=int, help='items per history; default: 20, or the beams')
  parser.add_argument('--beams', type=int, help='one of the numbers of beams in bundle.json')
  parser.add_argument('--within', help='file of the only items to recommend, one item id a line')
  parser.add_argument('--skip_unknown', action='store_true', help='leave out unknown items')
  args = parser.parse_args()
  try:
    history_rows.check(args.histories, args.out)
    recommender = Recommender()
    columns = recommender.columns
    rows = history_rows.read(args.histories, recommender.index, columns, args.skip_unknown)
    read = {name: [row.get(name) for row in rows] for name in ('history', *columns)}
    within, beams = None, args.beams or recommender.beams[0]
    if args.within is not None:
      text = pathlib.Path(args.within).read_text(encoding='utf-8-sig')
      within = [line.strip() for line in text.split('\n')]
    k = min(20, beams) if args.k is None else args.k
    found = recommender.recommend(read.pop('history'), k, **read, within=within, beams=args.beams)
    history_rows.write(args.out, rows, found)
  except (OSError, ValueError) as error:
    sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
  main()
