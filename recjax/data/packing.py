"""Packing: W consecutive examples of the stream (a group) become exactly R rows of a fixed length.

A decoder reads inputs and targets as one sequence, in rows of T positions. An encoder–decoder has two sides:
the encoder reads the inputs in rows of T positions, the decoder the targets in rows of another length. Both
sides of an example have the same row and the same segment number.

A row holds at most `Plan.level_capacity` SID tokens of one level. Complete semantic IDs never exceed that
limit; examples of single SID tokens are spread over more rows.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from recjax.data.mixture import Part
from recjax.data.sequences import offsets_of
from recjax.data.tasks.base import Example
from recjax.sids.token_space import TokenSpace

# --- the plan


@dataclasses.dataclass(frozen=True)
class Plan:
  """The fixed sizes of a group; `recjax.data.plan.make_plan` chooses W.

  Attributes:
    examples: W.
    rows: R.
    row_length: T.
    decoder_row_length: positions of a decoder row of an encoder–decoder. 0: a decoder, one sequence.
    start_id: the first token that the decoder of an encoder–decoder reads.
    space: the token ids. None: the stream holds no SID tokens.
  """

  examples: int
  rows: int
  row_length: int
  decoder_row_length: int = 0
  start_id: int = 0
  space: TokenSpace | None = None

  @property
  def identity(self) -> dict[str, Any]:
    """The fields that the stream's fingerprint covers, as JSON."""
    # Leaves out the space, which the parts `sids` and `tokenizer` cover, and a start token of 0. So the
    # fingerprint equals that of checkpoints from before these fields existed.
    fields = {k: v for k, v in dataclasses.asdict(self).items() if k != 'space'}
    return {k: v for k, v in fields.items() if k != 'start_id' or v}

  @property
  def sides(self) -> tuple[int, ...]:
    """Positions of a row on each side: inputs and targets, or one sequence of both."""
    sides = (self.row_length, self.decoder_row_length)
    return sides if self.decoder_row_length else sides[:1]

  @property
  def level_capacity(self) -> int:
    """The largest number of SID tokens of one level in a row's targets."""
    return self.space.row_capacity(self.sides[-1]) if self.space else self.sides[-1]

  def lengths(self, example: Example) -> tuple[int, ...]:
    """Returns the number of positions that an example takes on each side.

    The last token of a sequence is predicted but not read. The decoder of an encoder–decoder also reads the
    start token.
    """
    inputs, targets = len(example.inputs), len(example.targets)
    return (inputs, targets) if self.decoder_row_length else (inputs + targets - 1,)

  def level_counts(self, examples: Sequence[Example]) -> np.ndarray:
    """Returns the number of SID tokens of each level that each example adds to a row's targets.

    Args:
      examples: W examples.

    Returns:
      int64 `[W, L]`; `[W, 0]` without a token space.
    """
    if self.space is None:
      return np.zeros((len(examples), 0), np.int64)
    parts = [example.targets for example in examples]
    if not self.decoder_row_length:
      # Inputs are also targets (with weight 0) of the tokens before them.
      parts += [example.inputs for example in examples]
    columns = self.space.num_levels + 1  # the first one counts text
    first = np.tile(np.arange(len(examples)) * columns, len(parts) // len(examples))
    bins = np.repeat(first, [len(part) for part in parts])
    bins += np.take(self.space.level_of_token, np.concatenate(parts))
    counts = np.bincount(bins, minlength=len(examples) * columns)
    return counts.reshape(-1, columns)[:, 1:]


# --- the rows of a group


def first_fit_decreasing(
  sizes: np.ndarray, rows: int, capacity: Sequence[int] | np.ndarray
) -> np.ndarray | None:
  """Assigns examples to rows: longest first, each to the first row with room (Johnson, 1973).

  Args:
    sizes: int `[W, sizes]`; the first column decides the order. Every column must fit.
    rows: R.
    capacity: `[sizes]`, the capacity of a row.

  Returns:
    The row of each example, int64 `[W]`. None if they do not fit.
  """
  space = np.tile(np.asarray(capacity)[:, None], rows)  # sizes, R
  row_of = np.empty(len(sizes), np.int64)
  for i in np.argsort(-sizes[:, 0], kind='stable'):
    fits_R = space[0] >= sizes[i, 0]
    for n in range(1, len(space)):
      fits_R &= space[n] >= sizes[i, n]
    row = int(np.argmax(fits_R))
    if not fits_R[row]:
      return None
    space[:, row] -= sizes[i]
    row_of[i] = row
  return row_of


def fit(examples: list[Example], plan: Plan) -> tuple[list[Example], np.ndarray, int]:
  """Assigns the examples of a group to rows, and shortens examples until the group fits.

  First the oldest item of the longest history is removed. If no history is left, the end of the longest text
  is removed. Targets are never removed.

  Returns:
    The examples, the row of each, and the number of removed tokens.

  Raises:
    ValueError: the targets alone do not fit.
  """
  before = sum(len(example.inputs) for example in examples)
  examples = [cut_to_row(example, plan) for example in examples]
  row_of, examples = _fitted(examples, plan, count_levels=False)
  counts = plan.level_counts(examples)
  in_rows = np.zeros((plan.rows, counts.shape[1]), np.int64)
  np.add.at(in_rows, row_of, counts)
  if in_rows.max(initial=0) > plan.level_capacity:
    row_of, examples = _fitted(examples, plan, count_levels=True)
  return examples, row_of, before - sum(len(example.inputs) for example in examples)


def _fitted(
  examples: list[Example], plan: Plan, count_levels: bool
) -> tuple[np.ndarray, list[Example]]:
  """Returns the row of each example, and the examples, shortened if necessary.

  Args:
    examples: W examples.
    plan: the sizes.
    count_levels: whether the SID tokens of each level count as sizes, beside the positions.
  """
  examples, capacity = list(examples), np.array(plan.sides)
  if count_levels:
    capacity = np.append(capacity, [plan.level_capacity] * plan.space.num_levels)
  while True:
    sizes = np.array([plan.lengths(example) for example in examples])
    if count_levels:
      sizes = np.hstack([sizes, plan.level_counts(examples)])
    row_of = first_fit_decreasing(sizes, plan.rows, capacity)
    if row_of is not None:
      return row_of, examples
    # Before the next attempt, remove at least one token and at least the total excess.
    missing = max(int(sizes[:, 0].sum()) - plan.rows * plan.row_length, 1)
    while missing > 0:
      spare = np.array([example.spare for example in examples])
      kind = 0 if spare[:, 0].any() else 1
      longest = int(np.argmax(spare[:, kind]))
      if not spare[longest, kind]:
        raise ValueError(
          f'the targets of {plan.examples} examples must fit in {plan.rows} rows of {plan.sides} '
          f'tokens, without any history or text; got {sizes.sum(axis=0).tolist()} tokens. Set '
          '--config.packing.examples lower or --config.packing.rows higher'
        )
      shorter = examples[longest].shorter(missing)
      missing -= len(examples[longest].inputs) - len(shorter.inputs)
      examples[longest] = shorter


def cut_to_row(example: Example, plan: Plan) -> Example:
  """Removes the oldest history items, then the end of the text, until the example fits in a row."""
  while (excess := plan.lengths(example)[0] - plan.row_length) > 0 and any(example.spare):
    example = example.shorter(excess)
  return example


# --- the arrays of a group


def pack(group: list[tuple[Part, Example]], plan: Plan) -> dict[str, np.ndarray]:
  """Writes one group into rows.

  Args:
    group: W pairs of a part of the mixture and its example.
    plan: the sizes.

  Returns:
    int32 `tokens`, `targets` (each position's next token), `segments` (from 1; 0 is padding) and `positions`
    (from 0 in each segment), and float32 `weights`, each `[R, T]`. For an encoder–decoder these are the
    decoder side; `encoder_tokens`, `encoder_segments` and `encoder_positions` are the encoder side. int32
    `[R]`: `learnt`, the number of learnt targets in a row regardless of their weight, and `dropped`, whose sum
    is the number of removed tokens of histories and texts.
  """
  examples, row_of, dropped = fit([example for _, example in group], plan)
  order = np.argsort(row_of, kind='stable')  # by row; within a row in the order of the group
  examples, rows = [examples[i] for i in order], row_of[order]
  factors = np.array([group[i][0].component.loss_weight for i in order])
  arrays = {}
  if plan.decoder_row_length:
    inputs = _Layout.of([len(e.inputs) for e in examples], rows, plan.rows, plan.row_length)
    read = inputs.arrays(np.concatenate([e.inputs for e in examples]))
    arrays = {f'encoder_{name}': array for name, array in read.items()}
    layout = _Layout.of([len(e.targets) for e in examples], rows, plan.rows, plan.sides[-1])
    targets = np.concatenate([e.targets for e in examples])
    tokens = np.append(plan.start_id, targets[:-1])
    tokens[layout.places == 0] = plan.start_id
  else:
    lengths = [len(e.inputs) + len(e.targets) - 1 for e in examples]
    layout = _Layout.of(lengths, rows, plan.rows, plan.row_length)
    sequence = np.concatenate([part for e in examples for part in (e.inputs, e.targets)])
    is_last = np.zeros(len(sequence), bool)
    is_last[np.cumsum(layout.lengths + 1) - 1] = True
    tokens, targets = sequence[~is_last], sequence[~np.roll(is_last, 1)]
  learnt = layout.learnt(examples)
  arrays |= layout.arrays(tokens)
  arrays['targets'] = layout.scatter(targets, np.int32)
  arrays['weights'] = layout.scatter(learnt * np.repeat(factors, layout.lengths), np.float32)
  # Counts have one number per row, so they are sharded like the rest of the batch.
  arrays['learnt'] = np.bincount(np.repeat(rows, layout.lengths)[learnt], minlength=plan.rows)
  arrays['learnt'] = arrays['learnt'].astype(np.int32)
  arrays['dropped'] = np.array([dropped] + [0] * (plan.rows - 1), np.int32)
  return arrays


@dataclasses.dataclass(frozen=True)
class _Layout:
  """The positions of a group's tokens in the rows of one side; the examples are sorted by row.

  Attributes:
    shape: R and the number of positions of a row.
    lengths: int64 `[W]`, the number of positions of each example.
    segments: int64 `[W]`, each example's number in its row, from 1.
    places: int64 `[tokens]`, each token's index in its example, from 0.
    at: int64 `[tokens]`, each token's index in the flattened rows.
  """

  shape: tuple[int, int]
  lengths: np.ndarray
  segments: np.ndarray
  places: np.ndarray
  at: np.ndarray

  @classmethod
  def of(cls, lengths: list[int], rows: np.ndarray, num_rows: int, row_length: int) -> '_Layout':
    """Places examples of these lengths, sorted by row, one after the other into their rows."""
    lengths = np.array(lengths)
    offsets = offsets_of(lengths)
    first = np.searchsorted(rows, rows)  # index of the first example in the same row
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    starts = rows * row_length + offsets[:-1] - offsets[first]
    at = np.repeat(starts, lengths) + places
    return cls((num_rows, row_length), lengths, np.arange(len(rows)) - first + 1, places, at)

  def scatter(self, values: np.ndarray, dtype: type) -> np.ndarray:
    """Writes one value per token into rows `[R, T]`; padding is 0."""
    rows = np.zeros(self.shape, dtype)
    rows.ravel()[self.at] = values
    return rows

  def arrays(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Returns int32 `tokens`, `segments` and `positions` as rows."""
    segments = np.repeat(self.segments, self.lengths)
    values = {'tokens': tokens, 'segments': segments, 'positions': self.places}
    return {name: self.scatter(array, np.int32) for name, array in values.items()}

  def learnt(self, examples: list[Example]) -> np.ndarray:
    """Returns a mask of the tokens whose target is learnt, bool `[tokens]`."""
    num_targets = np.array([len(example.targets) for example in examples])
    learnt = self.places >= np.repeat(self.lengths - num_targets, self.lengths)
    ends = np.cumsum(self.lengths)
    for example, end in zip(examples, ends.tolist(), strict=True):
      if example.learnt is not None:
        learnt[end - len(example.targets) : end] = example.learnt
    return learnt
