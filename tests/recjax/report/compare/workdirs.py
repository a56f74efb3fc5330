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
  splits=('test',),
  **changes,
):
  """Writes the files of an evaluated run; returns the ranks of the model on the last split.

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
    splits: the splits that were evaluated.
    **changes: fields of the config to replace.
  """
  folder.mkdir(parents=True)
  config = dataclasses.replace(config, seed=seed, **changes)
  (folder / 'config.json').write_text(json.dumps(config.to_dict()))
  rows = np.arange(dataset.num_rows('test'))[rows]
  record = evaluation_file.data_record(dataset, 'original') | (digests or {})

  def ranked(split, lists):
    return Ranked.of(lists[rows], None, np.asarray(dataset.targets(split))[rows], 10, 1.0)

  models = {split: ranked(split, lists) for split in splits}
  hops = {'1': {}, '<i>2</i>': {}}
  evaluation_file.write(
    folder,
    {
      'step': 3,
      'training': {'steps': 3, 'stopped': 'steps'},
      'items_sharing_a_sid': 0,
      'metrics': {s: ranking.ranking_metrics(each.ranks_U, KS) for s, each in models.items()},
      'baselines': {},
      'rows_per_sec': 1.0,
      'eval': {'ks': list(KS), 'beams': config.eval.beams},
      'rows': dict.fromkeys(splits, len(rows)),
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
  files = {}
  for split, model in models.items():
    files[split, predictions.ROWS] = rows[labelled], columns
    files[split, 'retrieval'] = rows, predictions.of_ranked(model)
    for n, name in enumerate(baselines, start=50):
      rival = ranked(split, rankings(dataset, n, 0.2))
      files[split, f'baselines/{name}'] = rows, predictions.of_ranked(rival)
  for (split, name), (own, columns) in files.items():
    meta = predictions.record(split, name, len(own), record, protocol, 3)
    predictions.write(folder, meta, predictions.groups(ids, split, own, columns))
  return model.ranks_U
