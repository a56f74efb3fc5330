"""The catalogue of a new day: removed and new items, another order, semantic IDs of the same token space."""

import itertools
import json
import pathlib
import shutil

import numpy as np

from recjax.data.dataset import Dataset
from recjax.sids.table import SidTable


def prepared(dataset: Dataset, folder: pathlib.Path, seed: int = 0, new: int = 6) -> Dataset:
  """Writes a prepared folder with half a dozen items fewer, `new` new ones, and another order; returns its data set."""
  rng = np.random.default_rng(seed)
  shutil.copytree(dataset.folder.root, folder)
  table, items = dataset.sids, dataset.items
  kept = rng.permutation(len(items))[6:]
  used = set(map(tuple, table.codes_IL.tolist()))
  free = (c for c in itertools.product(*map(range, table.codes_per_level)) if c not in used)
  codes = [*table.codes_IL[kept].tolist(), *itertools.islice(free, new)]
  rows = [items[i] for i in kept] + [{'id': f'new{n}', 'title': f'New {n}'} for n in range(new)]
  order = rng.permutation(len(rows))
  rows = [rows[i] for i in order]
  (folder / 'interactions/items.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  place = {row['id']: i for i, row in enumerate(rows)}
  moved = np.array([place.get(item['id'], 0) for item in items], np.int32)
  for name in ('train', 'validation', 'test'):
    path = folder / f'interactions/{name}_items.npy'
    np.save(path, moved[np.load(path)])
  codes_IL = np.array(codes, np.int32)[order]
  SidTable(
    codes_IL, table.codes_per_level, table.quantizer, table.collisions, table.codebooks
  ).save(folder / 'sids')
  for stage in ('interactions', 'sids'):
    path = folder / stage / 'manifest.json'
    fields = json.loads(path.read_text())
    for name, file in fields['files'].items():
      file['sha256'] = f'{seed}-{name}'
    path.write_text(json.dumps(fields))
  return Dataset.load(folder)
