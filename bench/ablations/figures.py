"""The figures of a table, from the predictions of its runs: means over seeds, and paired differences of the rows."""

from collections.abc import Mapping, Sequence
import statistics
from typing import Any

import numpy as np

from bench.ablations.runs import SPLITS, Run
from bench.ablations.tables import Table
from recjax.metrics import paired, ranking
from recjax.report.compare import runs as compared_runs
from recjax.report.compare.build import difference, figures
from recjax.report.compare.contenders import Contender
from recjax.runtime import goodput

GROUPS = ('inside', 'outside')  # OneHop(u); see `recjax.metrics.onehop`
METRICS = ('recall', 'ndcg')
CHOICE = 'recall@10'  # of the validation rows; it names the best row


def of_data(table: Table, runs: Sequence[Run]) -> dict[str, Any]:
  """Returns the figures of a table on one data set.

  Args:
    table: the table.
    runs: its runs on the data set. Those that are not finished are left out, and so are rows without any.

  Returns:
    By split: `rows` and `users` of the ranking and of its groups; row → `metrics` (mean over seeds and its deviation)
    and `differences`, see `compared`. Beside them `seconds` and steps of every run, `baselines` of the first run,
    `unfinished`, and `best_on_validation`.

  Raises:
    ValueError: two runs rank other rows or follow another protocol; or predictions are damaged.
  """
  finished = [run for run in runs if run.is_finished]
  found: dict[str, Any] = {
    'unfinished': [run.name for run in runs if not run.is_finished],
    'runs': {row.name: [_run(r) for r in finished if r.row == row] for row in table.rows},
  }
  for split in SPLITS if finished else ():
    found[split] = _split(table, finished, split)
  if finished:
    means = {name: row['metrics'][CHOICE]['mean'] for name, row in found[SPLITS[0]]['rows'].items()}
    found['best_on_validation'] = {'metric': CHOICE, 'row': max(means, key=means.get)}
  return found


def _run(run: Run) -> dict[str, Any]:
  training = compared_runs.read(str(run.workdir)).evaluation['training']
  seconds = sum(sum(process['seconds'].values()) for process in goodput.read(run.workdir))
  kept = ('best_step', 'steps', 'best_epoch', 'epochs', 'stopped')
  return {'seed': run.seed, 'seconds': round(seconds, 1)} | {k: training.get(k) for k in kept}


def _split(table: Table, runs: Sequence[Run], split: str) -> dict[str, Any]:
  read = {run: compared_runs.read(str(run.workdir), split) for run in runs}
  compared_runs.check_comparable(list(read.values()))
  first = next(iter(read.values()))
  users_U = first.rows['user'].combine_chunks().dictionary_encode().indices.to_numpy()
  inside_U = compared_runs.labels(first).get('inside')
  groups = {'all': np.ones(len(users_U), bool)}
  if inside_U is not None:
    groups |= {name: inside_U == name for name in GROUPS}
  contenders = {}
  for row in table.rows:
    if own := [run for run in runs if run.row == row]:
      contenders[row.name] = _contender(row.name, [read[run] for run in own])
  ks = sorted(set.intersection(*(set(each.ks) for each in read.values())))
  against = {row.name: row.against or table.rows[0].name for row in table.rows[1:]}
  differences = compared(contenders, against, ks, users_U, groups)
  rows = {}
  for name, contender in contenders.items():
    entry = figures(contender, ks, users_U)
    rows[name] = {
      'seeds': list(contender.seeds),
      'top5_share': contender.top5_share,
      'metrics': _wanted(entry['metrics'])
      | _of_sids([read[run] for run in runs if run.row.name == name], split),
    }
    if name in differences:
      rows[name] |= {'against': against[name], 'differences': differences[name]}
  return {
    'groups': {
      name: {'rows': int(is_row_U.sum()), 'users': len(np.unique(users_U[is_row_U]))}
      for name, is_row_U in groups.items()
    },
    'rows': rows,
    'baselines': {
      name: _wanted(each if split == 'test' else each.get(split, {}))
      for name, each in first.evaluation['baselines'].items()
    },
  }


def _contender(name: str, read: Sequence[compared_runs.Run]) -> Contender:
  shares = [run.top5_share('model') for run in read]
  return Contender(
    name=name,
    kind='run',
    workdirs=tuple(run.workdir for run in read),
    seeds=tuple(run.seed for run in read),
    sid_seeds=tuple(run.sid_seed for run in read),
    top5_share=None if None in shares else float(np.mean(shares)),
    ranks=tuple(run.ranks['model'] for run in read),
  )


def compared(
  contenders: Mapping[str, Contender],
  against: Mapping[str, str],
  ks: Sequence[int],
  users_U: np.ndarray,
  groups: Mapping[str, np.ndarray],
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
  """Returns row → group → metric → its difference to the row that it is compared with.

  A metric of a user is the mean over the seeds of a row, and the test is paired over users: see
  `recjax.report.compare.build.difference`. `p_holm` is adjusted over the rows of the table. `seeds` are the mean
  differences of the seeds that both rows have; their spread shows what the error over users does not.

  Args:
    contenders: row → its rankings.
    against: row → the row that it is compared with. Rows without rankings are left out.
    ks: the cut-offs.
    users_U: ints, the user of every row of the ranking.
    groups: name → mask `[U]`; empty ones are left out.
  """
  pairs = {new: old for new, old in against.items() if new in contenders and old in contenders}
  found: dict[str, Any] = {new: {} for new in pairs}
  for group, is_row_U in groups.items():
    if not is_row_U.any():
      continue
    for key, metric, k in (
      (f'{name}@{k}', ranking.METRICS[name], k) for name in METRICS for k in ks
    ):
      entries = {}
      for new, old in pairs.items():
        a, b = contenders[new], contenders[old]
        entry = difference(a, b, metric, k, users_U, is_row_U)
        entries[new] = entry | {'seeds': _seed_differences(a, b, metric, k, is_row_U)}
      values = [entry['p'] for entry in entries.values()]
      adjusted = values if None in values else paired.holm(values)
      for (new, entry), p in zip(entries.items(), adjusted, strict=True):
        found[new].setdefault(group, {})[key] = entry | {'p_holm': p}
  return found


def _seed_differences(
  new: Contender, old: Contender, metric, k: int, is_row_U: np.ndarray
) -> list[float]:
  ranks = dict(zip(old.seeds, old.ranks, strict=True))
  return [
    float((metric(ranks_U[is_row_U], k) - metric(ranks[seed][is_row_U], k)).mean())
    for seed, ranks_U in zip(new.seeds, new.ranks, strict=True)
    if seed in ranks
  ]


def _wanted(metrics: Mapping[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in metrics.items() if key.partition('@')[0] in METRICS}


def _of_sids(read: Sequence[compared_runs.Run], split: str) -> dict[str, Any]:
  """Returns the hits of SIDs, as MiniOneRec counts them, if items share SIDs: sid_recall@k and sid_ndcg@k."""
  if not read[0].evaluation['items_sharing_a_sid']:
    return {}
  measured = [run.evaluation['protocol']['hits'][split]['model'] for run in read]
  found = {}
  for key in (f'sid_{metric}@{k}' for metric in METRICS for k in read[0].ks):
    values = [each[key] for each in measured]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    found[key] = {'mean': statistics.mean(values), 'seeds': values, 'seed_deviation': deviation}
  return found


def text(name: str, found: Mapping[str, Any]) -> str:
  """Returns the figures of a data set as text: for each split a line for every row."""
  lines = []
  for split in SPLITS:
    if split not in found:
      continue
    groups = found[split]['groups']
    sizes = ', '.join(f'{group} {each["rows"]:,}' for group, each in groups.items())
    lines.append(f'{name}, {split}; rows: {sizes}; differences of {CHOICE} with p (Holm)')
    head = ['', 'seeds', *('recall@10', 'ndcg@10'), *(f'Δ {group}' for group in groups)]
    table = [head] + [_cells(row, each, groups) for row, each in found[split]['rows'].items()]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ['  '.join(map(str.ljust, row, widths)).rstrip() for row in table]
    shown = {
      name: each[CHOICE] for name, each in found[split]['baselines'].items() if CHOICE in each
    }
    lines += [f'baselines, {CHOICE}: ' + ', '.join(f'{n} {v:.4f}' for n, v in shown.items()), '']
  if 'best_on_validation' in found:
    lines.append(f'{name}: best on validation by {CHOICE}: {found["best_on_validation"]["row"]}')
  lines += [f'{name}: not finished: {each}' for each in found['unfinished']]
  return '\n'.join(lines)


def _cells(row: str, entry: Mapping[str, Any], groups: Mapping[str, Any]) -> list[str]:
  recall, ndcg = (entry['metrics'][key] for key in ('recall@10', 'ndcg@10'))
  cells = [row, str(len(entry['seeds'])), *(f'{each["mean"]:.4f}' for each in (recall, ndcg))]
  for group in groups:
    found = entry.get('differences', {}).get(group, {}).get(CHOICE)
    if found is None:
      cells.append('')
    elif found['p_holm'] is None:
      cells.append(f'{found["mean"]:+.4f}')
    else:
      cells.append(f'{found["mean"]:+.4f} ± {found["stderr"]:.4f} ({found["p_holm"]:.2g})')
  return cells
