"""Workdirs of evaluated runs with random rankings, for the tests of the comparison."""

import dataclasses
import json

import numpy as np

from recjax.metrics import ranking
from recjax.metrics.ranked import Ranked
from recjax.metrics.slices import Labels
from recjax.workdir import evaluation_file, predictions

KS = (1, 5, 10)
ALL = slice(None)
PROTOCOL = {'split': 'leave_one_out', 'exclude_seen': True}


def rankings(dataset, seed: int, share: float) -> np.ndarray:
  """Returns random lists int32 `[U, 10]`, in which a share of the rows has its target at a random place."""
  rng = np.random.default_rng(seed)
  targets = np.asarray(dataset.targets('test'))
  lists = np.stack([rng.permutation(dataset.num_items)[:10] for _ in targets]).astype(np.int32)
  for row in np.flatnonzero(rng.random(len(targets)) < share):
    lists[row][lists[row] == targets[row]] = -1
    lists[row, rng.integers(10)] = targets[row]
  return lists


def write(
  folder,
  config,
  dataset,
  lists,
  *,
  seed=0,
  rows=ALL,
  labelled=ALL,
  digests=None,
  protocol=PROTOCOL,
  baselines=('popularity', 'transitions'),
  has_single=False,
  **changes,
):
  """Writes the files of an evaluated run; returns the ranks of the model.

  Args:
    folder: the workdir.
    config: the config of the run.
    dataset: the evaluated data.
    lists: the model's ranked items.
    seed: the run's seed.
    rows: the evaluated rows.
    labelled: those of them that have labels.
    digests: fields that replace those of the record of the data.
    protocol: the protocol of the record.
    baselines: their names.
    has_single: gives the first row a bucket of its own.
    **changes: fields of the config to replace.
  """
  folder.mkdir(parents=True)
  config = dataclasses.replace(config, seed=seed, **changes)
  (folder / 'config.json').write_text(json.dumps(config.to_dict()))
  targets = np.asarray(dataset.targets('test'))[rows]
  rows = np.arange(dataset.num_rows('test'))[rows]
  record = evaluation_file.data_record(dataset, 'original') | (digests or {})
  model = Ranked.of(lists[rows], None, targets, 10, 1.0)
  rivals = {
    name: Ranked.of(rankings(dataset, n, 0.2)[rows], None, targets, 10, 1.0)
    for n, name in enumerate(baselines, start=50)
  }
  metrics = ranking.ranking_metrics(model.ranks_U, KS)
  hops = {'1': {}, '<i>2</i>': {}}
  evaluation_file.write(
    folder,
    {
      'step': 3,
      'metrics': {'test': metrics},
      'baselines': {},
      'rows_per_sec': 1.0,
      'eval': {'ks': list(KS), 'beams': config.eval.beams},
      'rows': {'test': len(rows)},
      'data': record,
      'protocol': protocol,
      'memorization': {'rule': 'the rule', 'test': {'model': {'top5_share': 0.25}}},
      'splits': {
        'meanings': {'hop': 'hops & <b>'},
        'ranges': {'hop': {'single': [1234, 5678]}},
        'test': {'hop': hops},
      },
    },
  )
  ids = predictions.Ids(dataset)
  hop_U = (rows % 2).astype(np.int8)
  hop_U[0] = 2 if has_single else hop_U[0]
  labels = {
    'inside': Labels(('outside', 'inside'), (rows % 3 == 0).astype(np.int8)),
    'hop': Labels(('<i>2</i>', '1', 'single'), hop_U),
  }
  columns = {name: values[labelled] for name, values in predictions.of_labels(labels).items()}
  files = {predictions.ROWS: (rows[labelled], columns)}
  files['retrieval'] = rows, predictions.of_ranked(model)
  for name, each in rivals.items():
    files[f'baselines/{name}'] = rows, predictions.of_ranked(each)
  for name, (rows, columns) in files.items():
    meta = predictions.record('test', name, len(rows), record, protocol, 3)
    predictions.write(folder, meta, predictions.groups(ids, 'test', rows, columns))
  return model.ranks_U
