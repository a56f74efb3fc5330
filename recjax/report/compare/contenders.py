"""The contenders of a comparison: runs, grouped if they differ in the seed alone, and baselines."""

import collections
from collections.abc import Sequence
import dataclasses
import glob
import itertools
import os

import numpy as np

from recjax.report.compare import runs as runs_lib
from recjax.report.compare.runs import Run
from recjax.workdir import identity


@dataclasses.dataclass(frozen=True)
class Contender:
  """A row of the comparison.

  Attributes:
    name: its name in the table.
    kind: 'run' or 'baseline'.
    workdirs: the workdirs of its seeds; of a baseline, the workdir with its ranking.
    seeds: the seeds, in the order of `workdirs`.
    sid_seeds: the seeds of their semantic IDs.
    top5_share: the share of the first five recommendations in OneHop(u), the mean over the seeds. None: not measured.
    ranks: the ranks of every seed, int64 `[U]` each.
  """

  name: str
  kind: str
  workdirs: tuple[str, ...]
  seeds: tuple[int, ...]
  sid_seeds: tuple[int, ...]
  top5_share: float | None
  ranks: tuple[np.ndarray, ...]

  def values(self, metric, k: int) -> np.ndarray:
    """Returns a metric of every row, the mean over the seeds, float64 `[U]`."""
    return np.mean([metric(ranks_U, k) for ranks_U in self.ranks], axis=0)


def names(value: Sequence[str]) -> list[tuple[str, str]]:
  """Returns (workdir, ranker) of every part of --workdirs; a baseline is written WORKDIR:NAME.

  A part may be a pattern such as runs/sasrec_*. It stands for the workdirs that match and that are not named before.

  Raises:
    ValueError: a part is named twice, a pattern matches no workdir, or there is no part.
  """
  parts = [part.strip() for part in value if part.strip()]
  if not parts:
    raise ValueError('--workdirs must name at least one evaluated run, as --workdirs=A,B; got none')
  found: dict[tuple[str, str], tuple[str, str]] = {}
  for part in parts:
    folder, colon, ranker = part.rpartition(':')
    if not colon or '/' in ranker or os.path.exists(os.path.expanduser(part)):
      folder, ranker = part, 'model'
    folder = folder.rstrip('/') or folder
    is_pattern = glob.has_magic(folder) and not os.path.exists(os.path.expanduser(folder))
    for each in _matching(folder) if is_pattern else [folder]:
      place = os.path.realpath(os.path.expanduser(each)), ranker
      if place in found and not is_pattern:
        raise ValueError(f'--workdirs must name each run once; {part} is named twice')
      found.setdefault(place, (each, ranker))
  return list(found.values())


def _matching(pattern: str) -> list[str]:
  """Returns the workdirs that match a pattern, sorted; log files and other folders beside them are left out."""
  matches = sorted(glob.glob(os.path.expanduser(pattern)))
  if found := [match for match in matches if os.path.exists(os.path.join(match, identity.FILE))]:
    return found
  raise ValueError(
    f'--workdirs must name workdirs, which hold a {identity.FILE}; none matches {pattern!r}'
  )


def of_runs(asked: Sequence[tuple[str, str]], read: dict[str, Run]) -> list[Contender]:
  """Returns the contenders, in the order of --workdirs; baselines of the first run that are not named follow.

  A baseline that ranks all targets as a run does is left out.

  Runs with the same recipe and different seeds are one contender.

  Args:
    asked: the result of `names`.
    read: workdir → run.
  """
  labels = _labels([folder for folder, _ in asked])
  grouped: dict[str, list[tuple[str, str]]] = {}
  for folder, ranker in asked:
    run = read[folder]
    same = [
      key
      for key, members in grouped.items()
      if ranker == 'model'
      and members[0][1] == 'model'
      and read[members[0][0]].recipe == run.recipe
      and all(read[member].seeds != run.seeds for member, _ in members)
    ]
    key = same[0] if same else f'{folder}:{ranker}'
    grouped.setdefault(key, []).append((folder, ranker))
  found = [_contender(members, read, labels) for members in grouped.values()]
  first = asked[0][0]
  for ranker in read[first].ranks:
    named = any(ranker == other for _, other in asked)
    if ranker == 'model' or named:
      continue
    baseline = _contender([(first, ranker)], read, labels, short=True)
    # The baseline sasrec may be the ranking of a run that is named too (eval.sasrec).
    if not any(np.array_equal(baseline.ranks, each.ranks) for each in found):
      found.append(baseline)
  if len(found) < 2:
    raise ValueError(
      f'--workdirs must name two rankings; {", ".join(found[0].workdirs)} is one and has no baselines. Name another '
      'run too, as --workdirs=A,B'
    )
  counts = collections.Counter(each.name for each in found)
  return [
    dataclasses.replace(each, name=f'{each.name}: {", ".join(each.workdirs)}')
    if counts[each.name] > 1
    else each
    for each in found
  ]


def _contender(
  asked: Sequence[tuple[str, str]],
  read: dict[str, Run],
  labels: dict[str, str],
  short: bool = False,
) -> Contender:
  folders, ranker = [folder for folder, _ in asked], asked[0][1]
  if ranker == 'model':
    name = labels[folders[0]] if len(folders) == 1 else _common([labels[f] for f in folders])
  else:
    name = ranker if short else f'{labels[folders[0]]}: {ranker}'
  members = [read[f] for f in folders]
  ranks = tuple(runs_lib.chosen(f'{run.workdir}:{ranker}', run, ranker) for run in members)
  shares = [run.top5_share(ranker) for run in members]
  return Contender(
    name=name,
    kind='run' if ranker == 'model' else 'baseline',
    workdirs=tuple(folders),
    seeds=tuple(run.seed for run in members),
    sid_seeds=tuple(run.sid_seed for run in members),
    top5_share=None if None in shares else float(np.mean(shares)),
    ranks=ranks,
  )


def _labels(folders: Sequence[str]) -> dict[str, str]:
  """Returns the shortest end of every path that is unique among them."""
  folders = list(dict.fromkeys(folders))
  found = {}
  for folder in folders:
    parts = folder.split('/')
    ends = ['/'.join(parts[-n:]) for n in range(1, len(parts) + 1)]
    others = [f'/{other}' for other in folders if other != folder]
    found[folder] = next(
      (end for end in ends if not any(o.endswith(f'/{end}') for o in others)), folder
    )
  return found


def _common(labels: Sequence[str]) -> str:
  """Returns one name for runs of several seeds: the common beginning of their names, or all names."""
  same = zip(*labels, strict=False)
  start = ''.join(letters[0] for letters in itertools.takewhile(lambda ls: len(set(ls)) == 1, same))
  if all(label[len(start) : len(start) + 1].isdigit() for label in labels):
    start = start.rstrip('0123456789')  # of beauty_10 and beauty_11
  start = start.rstrip('_-. /')
  return f'{start} ({len(labels)} seeds)' if start else ', '.join(labels)
