"""Checks before the first step: items can be told apart, targets can be found, every task has something to learn.

An error ends the program; a warning is one line in the log. `preflight` checks the parameters.
"""

import logging
import math

import numpy as np

from recjax.data import packing
from recjax.data.corpus import Corpus
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.loader import Stream
from recjax.data.mixture import Part
from recjax.data.tasks.base import Component, Example
from recjax.metrics.reachable import unreachable_targets
from recjax.schema.checks import check

FEW_ROWS = 50  # held-out rows below which a metric is mostly noise
LARGE_GROUP = 0.1  # share of the catalogue with equal codes that is worth a warning
SAMPLE = 2000  # examples of a component that are looked at

log = logging.getLogger(__name__)


def check_dataset(dataset: Dataset, exclude_seen: bool, eval_rows: int) -> None:
  """Checks that items can be told apart and that held-out targets can be found.

  Args:
    dataset: the prepared data.
    exclude_seen: `eval.exclude_seen`.
    eval_rows: `eval.eval_users`.

  Raises:
    ValueError: all items have the same codes, validation has no row, or no target can be found.
  """
  _check_codes(dataset)
  for split in SPLITS:
    _check_split(dataset, split, exclude_seen)
  rows = min(dataset.num_rows('validation'), eval_rows)
  if rows < FEW_ROWS:
    log.warning(
      'an evaluation during training has %d rows, so the standard error of its recall is up to %.2f and the '
      'choice of the best checkpoint is mostly chance. Set --config.eval.eval_users, or hold out more rows',
      *(rows, 0.5 / math.sqrt(rows)),
    )


def _check_codes(dataset: Dataset) -> None:
  """Checks that items have different codes; see `check_dataset`."""
  sids, num_items = dataset.sids, dataset.num_items
  statistics = (dataset.sid_description or {}).get('statistics') or sids.statistics()
  largest = statistics['largest_group']
  if num_items > 1 and largest == num_items:
    raise ValueError(
      f'semantic IDs must tell items apart; all {num_items} items have equal codes, as if their texts or '
      f'vectors were equal. Set --config.sids.source, --config.sids.codes or --config.sids.encoder'
    )
  if sids.sharing_items:
    log.warning(
      '%d of %d items share their semantic ID with another item (sids.collisions=keep): they always have equal '
      'scores, and the most popular one is ranked first',
      *(sids.sharing_items, num_items),
    )
  elif largest > max(LARGE_GROUP * num_items, 10):
    log.warning(
      '%d of %d items have equal quantized codes; only an arbitrary number on the last level tells them apart. '
      'More codes (--config.sids.codes) or other vectors (--config.sids.source) separate them better',
      *(largest, num_items),
    )


def _check_split(dataset: Dataset, split: str, exclude_seen: bool) -> None:
  """Checks that a split has targets that can be found; see `check_dataset`."""
  targets = np.asarray(dataset.targets(split))
  num_rows = len(targets)
  check(
    num_rows > 0,
    f'the {split} part must have at least one row, a target with a history',
    num_rows,
    'data.split or --config.data.split_shares',
  )
  unknown = int(((targets < 0) | (targets >= dataset.num_items)).sum())
  if unknown:
    raise ValueError(
      f'{split} targets must be items of the catalogue; {unknown} of {num_rows} in {dataset.folder} are not. '
      'Run --mode=prepare with another --config.data.prepared_dir'
    )
  if exclude_seen:
    check(
      unreachable_targets(dataset, split) < num_rows,
      f'eval.exclude_seen must leave a {split} target that can be recommended; all {num_rows} targets are '
      'items of their own history',
      exclude_seen,
      'eval.exclude_seen=False',
    )
  if split == 'test' and num_rows < FEW_ROWS:
    log.warning(
      'the test part has %d rows, so the standard error of its recall is up to %.2f',
      *(num_rows, 0.5 / math.sqrt(num_rows)),
    )


def check_stream(
  stream: Stream,
  num_examples: int,
  searched: Component | None = None,
) -> None:
  """Checks that every component of a training's stream has something to learn.

  Args:
    stream: the stream of the training.
    num_examples: examples of the whole training.
    searched: the component whose prompt the search continues; None: it need not be in this training.

  Raises:
    ValueError: nothing is learnt, the searched component is not trained or learns no semantic ID, a component has no
      learnt target, its inputs are all equal, or rows have no room for any history.
  """
  mixture = stream.mixture
  check(
    any(part.component.loss_weight > 0 for part in mixture.parts),
    'the mixture must hold a component with a positive loss_weight',
    {part.name: part.component.loss_weight for part in mixture.parts},
    'mixture.<name>.loss_weight',
  )
  sampled = [example for sample in mixture.survey for example in sample]
  drawn = _examples_of_run(stream, num_examples)
  for part, count in zip(mixture.parts, drawn, strict=True):
    component = part.component
    is_searched = component is searched
    if is_searched:
      _check_searched(part.name, component, mixture.corpus)
    if count == 0 or component.loss_weight == 0:
      reason = 'has no example in this training' if count == 0 else 'has loss_weight 0'
      if is_searched:
        raise ValueError(
          f'mixture.{part.name} must be trained, because recommendations continue its prompt; it {reason}. Set '
          f'--config.mixture.{part.name}.{"schedule" if count == 0 else "loss_weight"}'
        )
      log.warning('mixture.%s is not trained: it %s', part.name, reason)
    examples = [example for owner, example in sampled if owner is part][:SAMPLE]
    if examples and component.loss_weight > 0:
      _check_part(part, examples, stream)


def _check_searched(name: str, component: Component, corpus: Corpus) -> None:
  """Checks that the component whose prompt the search continues learns semantic IDs; tells which field wins."""
  check(
    component.learn != 'title',
    f'mixture.{name}.learn must be sid or both, because recommendations continue its prompt with semantic IDs',
    component.learn,
    f'mixture.{name}.learn=both',
  )
  shown = component.shown_as(corpus.is_encoder_decoder)
  if shown != component.show:
    log.warning(
      'mixture.%s.learn=%s wins over show=%s: histories show %s, because the answers of a window are the history of '
      'later ones',
      *(name, component.learn, component.show, shown),
    )


def seen_tokens(stream: Stream) -> np.ndarray:
  """Returns whether each SID token occurs in training, bool `[sid_size]`.

  The tokens are those of the training sequences. A stream whose sample holds another SID token has a task about the
  whole catalogue; all tokens then count as seen.
  """
  corpus = stream.mixture.corpus
  space, sid_tokens_IL = corpus.dataset.vocabulary.space, corpus.sid_tokens_IL
  items = np.flatnonzero(corpus.train.counts(len(sid_tokens_IL)))
  seen = np.zeros(space.size, bool)
  seen[sid_tokens_IL[items]] = True
  for _, example in (pair for sample in stream.mixture.survey for pair in sample):
    for tokens in (example.inputs, example.targets):
      if not seen[tokens[tokens >= space.sid_start]].all():
        return np.ones(space.sid_size, bool)
  return seen[space.sid_start :]


def _examples_of_run(stream: Stream, num_examples: int) -> np.ndarray:
  """Returns the number of examples of each part among the first `num_examples`."""
  intervals = stream.mixture.intervals
  ends = [*(interval.start for interval in intervals[1:]), num_examples]
  return sum(
    interval.counts_before(max(min(end, num_examples) - interval.start, 0))
    for interval, end in zip(intervals, ends, strict=True)
  )


def _check_part(part: Part, examples: list[Example], stream: Stream) -> None:
  """Checks that the examples of a component have something to learn; see `check_stream`."""
  corpus, name = stream.mixture.corpus, f'mixture.{part.name}'
  check(
    any(example.num_learnt for example in examples),
    f'{name} must have learnt targets; none of {len(examples)} examples has one',
    part.component.task,
    f'{name}.weight=0',
  )
  cut = [packing.cut_to_row(example, stream.plan) for example in examples]
  _check_histories(name, examples, cut, stream.plan.row_length)
  _check_titles(part, corpus)
  targets = {example.targets.tobytes() for example in cut}
  # A decoder's window holds its history in the targets; the inputs of its examples may be equal.
  first_sid, levels = corpus.dataset.vocabulary.space.sid_start, corpus.sid_tokens_IL.shape[1]
  is_window = part.component.task == 'next_item' and (
    max(np.count_nonzero(example.targets >= first_sid) for example in cut) > levels
  )
  wordings = len(part.component.used_prompts)
  inputs = {example.inputs.tobytes() for example in cut}
  if not is_window and len(inputs) <= wordings < len(targets):
    raise ValueError(
      f'the examples of {name} must differ in their inputs; {len(cut)} examples have the same one but for '
      f'their wording, and {len(targets)} different targets. Set --config.{name}.title_tokens, '
      f'--config.packing.row_length, or --config.{name}.weight=0'
    )
  if len(targets) == 1 and part.units > 1 and len(cut) > 1:
    log.warning(
      '%s teaches a constant: all of %d examples have the same target. Set --config.%s.weight=0 to drop it',
      *(name, len(cut), name),
    )


def _check_histories(
  name: str, examples: list[Example], cut: list[Example], row_length: int
) -> None:
  """Checks that rows have room for the histories of the examples."""
  items, kept = (sum(len(example.history) for example in some) for some in (examples, cut))
  if items == 0 or kept > 0.5 * items:
    return
  check(
    kept > 0,
    f'packing.row_length must leave room for histories; every item of the histories of {name} is cut off',
    row_length,
    'packing.row_length',
  )
  log.warning(
    'packing.row_length=%d cuts histories: %.0f%% of the history items of %s do not fit. Set '
    '--config.packing.row_length higher, or --config.%s.max_items lower',
    *(row_length, 100 * (1 - kept / items), name, name),
  )


def _check_titles(part: Part, corpus: Corpus) -> None:
  """Checks that titles, cut after `title_tokens`, tell items apart where only the title is shown."""
  component, name = part.component, f'mixture.{part.name}'
  tokens, show = getattr(component, 'title_tokens', None), getattr(component, 'show', 'title')
  if tokens is None or show != 'title':
    return
  titles = corpus.titles(tokens)
  items = [title.tobytes() for title in titles if len(title)]
  distinct, num_items = len(set(items)), len(items)
  check(
    distinct > 1 or num_items < 2,
    f'titles must tell items apart in {name}; the first {tokens} tokens of all {num_items} titles are equal',
    tokens,
    f'{name}.title_tokens or --config.{name}.weight=0',
  )
  if distinct < 0.5 * num_items:
    log.warning(
      '%s.title_tokens=%d leaves %d different titles of %d items; items with equal titles cannot be told apart',
      *(name, tokens, distinct, num_items),
    )
