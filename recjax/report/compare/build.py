"""Computes a comparison and writes compare.json, for programs, and compare.html, which needs no other file."""

from collections.abc import Mapping, Sequence
import json
import logging
from typing import Any

from etils import epath
import numpy as np

from recjax.metrics import paired, ranking
from recjax.report.compare import contenders as contenders_lib
from recjax.report.compare import page, runs
from recjax.report.compare.contenders import Contender
from recjax.runtime.files import write_whole
from recjax.workdir import timeline

log = logging.getLogger(__name__)

JSON, HTML = 'compare.json', 'compare.html'
SPLIT_METRICS = (('recall', 10), ('ndcg', 10))  # of the groups of rows
CURVE = 'recall@10'  # over the minutes of a training


def compare(workdirs: Sequence[str], out: epath.PathLike) -> dict[str, Any]:
  """Compares runs and baselines on the test rows, and writes compare.json and compare.html into `out`.

  Args:
    workdirs: workdirs of evaluated runs; WORKDIR:NAME is a baseline of a run. The others are compared with the first.
    out: folder to write.

  Returns:
    The content of compare.json.

  Raises:
    OSError: a folder does not exist.
    ValueError: a workdir has no predictions, or the runs rank other rows or follow another protocol.
  """
  asked = contenders_lib.names(workdirs)
  read = {folder: runs.read(folder) for folder in dict.fromkeys(folder for folder, _ in asked)}
  runs.check_comparable(list(read.values()))
  found = contenders_lib.of_runs(asked, read)
  first = read[asked[0][0]]
  ks = sorted(set.intersection(*(set(run.ks) for run in read.values())))
  users_U = first.rows['user'].combine_chunks().dictionary_encode().indices.to_numpy()
  result = {
    'reference': found[0].name,
    'data': {
      name: value
      for name, value in first.record['data'].items()
      if all(run.record['data'].get(name) == value for run in read.values())
    },
    'protocol': {
      name: value
      for name, value in first.evaluation.get('protocol', first.record['protocol']).items()
      if isinstance(value, str | bool)
    },
    'rows': len(users_U),
    'users': int(users_U.max()) + 1,
    'ks': ks,
    'resamples': paired.RESAMPLES,
    'contenders': [figures(each, ks, users_U) for each in found],
    'differences': _differences(found, ks, users_U),
    'splits': _splits(found, first, users_U),
    'trainings': _trainings(found),
  }
  out = epath.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  write_whole(out / JSON, json.dumps(result, indent=2, allow_nan=False) + '\n')
  write_whole(out / HTML, page.render(result))
  for line in lines(result):
    log.info('%s', line)
  return result


def lines(result: Mapping[str, Any]) -> list[str]:
  """Returns one line of the log for every contender."""
  found = []
  for each in result['contenders']:
    text = f'{each["name"]}: recall@10 {each["metrics"]["recall@10"]["mean"]:.4f}'
    if (difference := result['differences'].get(each['name'])) is not None:
      row = difference['recall@10']
      text += f', {row["mean"]:+.4f} against {result["reference"]}'
      if row['p'] is not None:
        text += f' [{row["low"]:+.4f}, {row["high"]:+.4f}], p {row["p"]:.2g}'
    found.append(text)
  return found


def _metrics(ks: Sequence[int]):
  """Yields name, function and cut-off of every metric."""
  for name, metric in ranking.METRICS.items():
    for k in ks:
      yield f'{name}@{k}', metric, k


def figures(each: Contender, ks: Sequence[int], users_U: np.ndarray) -> dict[str, Any]:
  """Returns the entry of a contender: every metric with its error over users and its deviation over seeds.

  Args:
    each: the contender.
    ks: the cut-offs.
    users_U: ints, the user of every row.
  """
  metrics = {}
  for name, metric, k in _metrics(ks):
    values_U = each.values(metric, k)
    seeds = [float(metric(ranks_U, k).mean()) for ranks_U in each.ranks]
    metrics[name] = {
      'mean': float(values_U.mean()),
      'stderr': paired.difference(values_U, np.zeros(len(values_U)), users_U)['stderr'],
      'seeds': seeds,
      'seed_deviation': float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
    }
  return {
    'name': each.name,
    'kind': each.kind,
    'workdirs': list(each.workdirs),
    'seeds': list(each.seeds),
    'sid_seeds': list(each.sid_seeds),
    'top5_share': each.top5_share,
    'metrics': metrics,
  }


def difference(new: Contender, old: Contender, metric, k: int, users_U, rows=slice(None)):
  """Returns mean, standard error, interval and p-value of a difference; a single user has the mean alone.

  Args:
    new, old: the contenders; each metric is the mean over a contender's seeds.
    metric: a function of `ranking.METRICS`.
    k: the cut-off.
    users_U: ints, the user of every row.
    rows: the rows that count, a slice or a mask.
  """
  values = new.values(metric, k)[rows], old.values(metric, k)[rows], users_U[rows]
  found = paired.difference(*values)
  users = len(np.unique(values[2]))
  entry = {'mean': found['mean'], 'stderr': None, 'low': None, 'high': None, 'p': None}
  if users > 1:
    low, high = paired.bootstrap(*values)
    p = paired.t_test(found, users)
    entry |= {'stderr': found['stderr'], 'low': low, 'high': high, 'p': p}
  return entry


def _differences(
  found: Sequence[Contender], ks: Sequence[int], users_U: np.ndarray
) -> dict[str, dict[str, Any]]:
  """Returns contender → metric → difference to the first; `p_holm` is adjusted over the contenders."""
  first, *others = found
  result = {
    each.name: {
      name: difference(each, first, metric, k, users_U) for name, metric, k in _metrics(ks)
    }
    for each in others
  }
  for name, *_ in _metrics(ks):
    values = [row[name]['p'] for row in result.values()]
    adjusted = values if None in values else paired.holm(values)
    for row, p in zip(result.values(), adjusted, strict=True):
      row[name]['p_holm'] = p
  return result


def _splits(found: Sequence[Contender], first: runs.Run, users_U: np.ndarray) -> dict[str, Any]:
  """Returns split → bucket → rows, users, figures and differences; see `recjax.metrics.slices`."""
  ranges = first.evaluation.get('splits', {}).get('ranges', {})
  meanings = {'inside': first.evaluation.get('memorization', {}).get('rule', '')}
  meanings |= first.evaluation.get('splits', {}).get('meanings', {})
  order = first.evaluation.get('splits', {}).get('test', {})
  splits = {}
  for name, buckets_U in runs.labels(first).items():
    known = [bucket for bucket in order.get(name, {}) if (buckets_U == bucket).any()]
    known += [bucket for bucket in sorted(set(buckets_U)) if bucket not in known]
    splits[name] = {
      'meaning': meanings.get(name, ''),
      'ranges': ranges.get(name, {}),
      'buckets': {bucket: _bucket(found, users_U, buckets_U == bucket) for bucket in known},
    }
  return splits


def _trainings(found: Sequence[Contender]) -> dict[str, Any]:
  """Returns run → [minutes, validation metric] at every evaluation of its training; runs without times are left out."""
  curves = {}
  for each in found:
    for seed, workdir in zip(each.seeds, each.workdirs, strict=True):
      points = timeline.evaluations(workdir, CURVE) if each.kind == 'run' else []
      if points:
        name = each.name if len(each.seeds) == 1 else f'{each.name}, seed {seed}'
        curves[name] = [list(point) for point in points]
  return {'metric': CURVE, 'curves': curves}


def _bucket(found: Sequence[Contender], users_U: np.ndarray, rows_U: np.ndarray) -> dict[str, Any]:
  first, *others = found
  entry: dict[str, Any] = {
    'rows': int(rows_U.sum()),
    'users': len(np.unique(users_U[rows_U])),
    'contenders': {},
    'differences': {},
  }
  for each in found:
    entry['contenders'][each.name] = {
      f'{name}@{k}': float(each.values(ranking.METRICS[name], k)[rows_U].mean())
      for name, k in SPLIT_METRICS
    }
  for each in others:
    entry['differences'][each.name] = {
      f'{name}@{k}': difference(each, first, ranking.METRICS[name], k, users_U, rows_U)
      for name, k in SPLIT_METRICS
    }
  return entry
