"""The protocol of an evaluation: what a target is, what may be ranked, and what counts as a hit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recjax.data.dataset import SPLITS, Dataset
from recjax.metrics import ranking
from recjax.metrics.ranked import Ranked
from recjax.metrics.reachable import count_unreachable
from recjax.schema.data import Data
from recjax.schema.run import Eval

_SOURCE_RULE = 'validation and test rows (history, target) are those of the source'


def target_rule(data: Data) -> str:
  """Returns the rule that chooses the held-out targets, in words; see `data_prep.log.splits`."""
  if data.split == 'leave_one_out':
    rule = (
      "a user's last interaction is the test target, the one before it the validation target, and all earlier ones "
      'are the training part; the history of a test row includes the validation target'
    )
  elif data.split == 'global_time':
    train, validation, test = (f'{100 * share:.4g} %' for share in data.split_shares)
    rule = (
      'every interaction except the first of its user is a target with the earlier ones as its history; these pairs '
      f'are sorted by time: the first {train} are the training part, the next {validation} validation, the last '
      f'{test} test; a user may have several rows or none, and a history goes on to the target, beyond the training '
      'part'
    )
  else:
    rule = _SOURCE_RULE
  if data.context_events:
    rule += (
      f'; interactions of kind {", ".join(data.context_events)} are history alone, never a target'
    )
  if data.max_history:
    rule += f'; the last {data.max_history} items of a history are kept'
  return rule


def record(
  data: Data,
  settings: Eval,
  dataset: Dataset,
  rankers: Mapping[str, Mapping[str, Ranked]],
  rows: Mapping[str, np.ndarray],
  leakage: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns the protocol for evaluation.json.

  Args:
    data: the data section.
    settings: the eval section.
    dataset: the prepared data.
    rankers: split → name → result for the evaluated rows.
    rows: split → row numbers of the evaluated rows.
    leakage: the record of `recjax.metrics.leakage.check`.
  """
  sharing, sid_I = dataset.sids.sharing_items, dataset.sids.sid_I
  targets = {split: np.asarray(dataset.targets(split))[rows[split]] for split in rankers}
  return {
    'split': data.split,
    'target_rule': target_rule(data),
    'exclude_seen': settings.exclude_seen,
    'shared_sids': settings.shared_sids,
    'reachable_targets': {
      split: _reachable(dataset, split, settings.exclude_seen) for split in SPLITS
    },
    'items_sharing_a_sid': sharing,
    'items_sharing_a_sid_share': sharing / dataset.num_items,
    'hits': {
      split: {name: hits(each, targets[split], sid_I, settings.ks) for name, each in found.items()}
      for split, found in rankers.items()
    },
    'leakage': dict(leakage),
  }


def _reachable(dataset: Dataset, split: str, exclude_seen: bool) -> dict[str, Any]:
  rows = dataset.num_rows(split)
  repeated = count_unreachable(dataset.seen(split), dataset.targets(split))
  reachable = rows - repeated if exclude_seen else rows
  return {'in_own_history': repeated, 'count': reachable, 'share': reachable / rows}


def hits(
  ranked: Ranked, targets_U: np.ndarray, sid_I: np.ndarray, ks: Sequence[int]
) -> dict[str, float]:
  """Returns recall and ndcg by hits of items, and `sid_recall@k`, `sid_ndcg@k` by hits of SIDs, with their errors.

  MiniOneRec (arXiv 2510.24431) and TS-Rec (arXiv 2602.22632) count hits of SIDs. If no two items share a SID, both
  are equal. Arguments: see `sid_ranks`.
  """
  sid_U = sid_ranks(ranked.items_UK, targets_U, sid_I, ks)
  found = {}
  for prefix, ranks_U in (('', ranked.ranks_U), ('sid_', sid_U)):
    for name in ('recall', 'ndcg'):
      for k in ks:
        values_U = ranking.METRICS[name](ranks_U, k)
        found |= ranking.mean_and_error(f'{prefix}{name}@{k}', values_U)
  return found


def sid_ranks(
  items_UK: np.ndarray, targets_U: np.ndarray, sid_I: np.ndarray, ks: Sequence[int]
) -> np.ndarray:
  """Returns the rank of the target's SID among the distinct SIDs of every list, int64 `[U]`.

  Args:
    items_UK: item indices, best first; -1 after the end of a list.
    targets_U: item indices.
    sid_I: the SID of every item, see `SidTable.sid_I`.
    ks: the cut-offs; an absent SID counts at none of them.
  """
  U, K = items_UK.shape
  sids_UK = np.where(items_UK >= 0, sid_I[items_UK], -1)
  order = np.argsort(sids_UK, axis=1, kind='stable')
  ordered = np.take_along_axis(sids_UK, order, 1)
  is_new = np.ones((U, K), bool)
  is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
  is_first = np.empty((U, K), bool)  # places where a SID occurs for the first time
  np.put_along_axis(is_first, order, is_new, 1)
  is_hit = sids_UK == sid_I[targets_U][:, None]
  places = is_hit.argmax(axis=1)
  ranks_U = (np.cumsum(is_first, axis=1) - 1)[np.arange(U), places]
  return np.where(is_hit.any(axis=1), ranks_U, max(K, *ks)).astype(np.int64)


def lines(record: Mapping[str, Any]) -> Iterator[str]:
  """Yields the protocol as lines for the log."""
  yield f'protocol {record["split"]}: {record["target_rule"]}'
  seen = 'are not recommended' if record['exclude_seen'] else 'may be recommended'
  for split, found in record['reachable_targets'].items():
    yield (
      f'{split}: items of the history {seen}; {100 * found["share"]:.2f} % of the targets can be found '
      f'({found["in_own_history"]:,} are in their own history)'
    )
  if record['items_sharing_a_sid']:
    ranked = 'the most popular one is' if record['shared_sids'] == 'first' else 'all of them are'
    yield (
      f'{record["items_sharing_a_sid"]:,} items ({100 * record["items_sharing_a_sid_share"]:.2f} %) share their '
      f'semantic ID with another, and {ranked} ranked; recall counts hits of items, sid_recall hits of semantic IDs'
    )
  yield 'leakage test passed: ' + '; '.join(record['leakage']['rules'].values())
