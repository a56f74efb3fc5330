"""Packing groups: W consecutive examples of the stream become exactly R rows.

A decoder reads inputs and targets as one sequence in rows of T positions. An encoder–decoder reads the
inputs in rows of T and the targets in rows of its own length; both sides of an example lie in the same
row under the same segment number.
"""

import dataclasses

import numpy as np

from recjax.data.mixture import Mixture, Part
from recjax.data.tasks.base import Example
from recjax.schema.checks import check
from recjax.schema.stream import Packing

SAMPLE_GROUPS = 64  # groups whose lengths decide W
OVERFLOW_SHARE = 0.05  # W is the largest that overflows in at most this share of the sampled groups


@dataclasses.dataclass(frozen=True)
class Plan:
  """The fixed sizes of a group, part of the stream's fingerprint.

  Attributes:
    examples: W.
    rows: R.
    row_length: T.
    decoder_row_length: of an encoder–decoder's target side; 0: one sequence.
    start_id: the token that an encoder–decoder's target side begins with.
  """

  examples: int
  rows: int
  row_length: int
  decoder_row_length: int = 0
  start_id: int = 0

  @property
  def capacity(self) -> tuple[int, ...]:
    """Positions of a row, a number a side."""
    sides = (self.row_length, self.decoder_row_length)
    return sides if self.decoder_row_length else sides[:1]

  def lengths(self, example: Example) -> tuple[int, ...]:
    """Positions that an example takes on each side.

    The last token of a sequence is predicted but never read; a decoder with a side of its own begins
    with its start token instead.
    """
    inputs, targets = len(example.inputs), len(example.targets)
    return (inputs, targets) if self.decoder_row_length else (inputs + targets - 1,)


def first_fit_decreasing(
  lengths: np.ndarray, rows: int, capacity: tuple[int, ...]
) -> np.ndarray | None:
  """The row of each example, or None where they do not fit (Johnson, 1973; sides packed together).

  Args:
    lengths: int `[W, sides]`.
    rows: R.
    capacity: positions of a row, a number a side.

  Returns:
    int64 `[W]`.
  """
  space = np.tile(np.asarray(capacity)[:, None], rows)  # sides, R
  row_of = np.empty(len(lengths), np.int64)
  for i in np.argsort(-lengths[:, 0], kind='stable'):
    fits_R = space[0] >= lengths[i, 0]
    if len(capacity) > 1:
      fits_R &= space[1] >= lengths[i, 1]
    row = int(np.argmax(fits_R))
    if not fits_R[row]:
      return None
    space[:, row] -= lengths[i]
    row_of[i] = row
  return row_of


def make_plan(
  mixture: Mixture, packing: Packing, is_encoder_decoder: bool = False, start_id: int = 0
) -> Plan:
  """Fixes W: as configured, or the largest that fits the lengths in every piece of the stream.

  Raises:
    ValueError: a row is too short for one example, or a group for W of them.
  """
  decoder_row_length = packing.decoder_row_length if is_encoder_decoder else 0
  plan = Plan(packing.examples or 1, packing.rows, packing.row_length, decoder_row_length, start_id)
  pieces = [_Lengths.of([example for _, example in piece], plan) for piece in mixture.survey]
  longest = np.max([piece.bare.max(axis=0) for piece in pieces], axis=0)
  fields = ('row_length', 'decoder_row_length')
  for needed, size, field in zip(longest, plan.capacity, fields, strict=False):
    if needed > size:
      raise ValueError(
        f'a row must hold every example without its history and its text, up to {needed} tokens; got '
        f'packing.{field}={size}. Set --config.packing.{field}, or shorter items in the mixture'
      )
  if packing.examples is not None:
    check(
      all(_targets_fit(piece.bare, plan.examples, plan) for piece in pieces),
      f'packing.examples must fit in {plan.rows} rows of {plan.capacity} tokens, histories and texts left out',
      packing.examples,
      'packing.examples',
    )
    return plan
  W = min(_largest_that_fits(piece, plan) for piece in pieces)
  return dataclasses.replace(plan, examples=W)


@dataclasses.dataclass(frozen=True)
class _Lengths:
  """Positions that the examples of a stretch of the stream take, int `[n, sides]`: whole, and at least."""

  whole: np.ndarray
  bare: np.ndarray

  @classmethod
  def of(cls, examples: list[Example], plan: Plan) -> '_Lengths':
    whole = np.array([plan.lengths(example) for example in examples])
    bare = whole.copy()
    bare[:, 0] -= [sum(example.spare) for example in examples]
    return cls(np.minimum(whole, np.maximum(bare, plan.capacity)), bare)

  def groups(self, lengths: np.ndarray, W: int, count: int) -> list[np.ndarray]:
    """So many groups of W examples that follow each other, spread over the stretch (which is a circle)."""
    starts = np.arange(count) * len(lengths) // count
    return [lengths[(start + np.arange(W)) % len(lengths)] for start in starts]


def _largest_that_fits(piece: _Lengths, plan: Plan) -> int:
  guess = _guess(piece.whole, plan)
  for W in range(guess, 0, -max(guess // 200, 1)):
    groups = piece.groups(piece.whole, W, SAMPLE_GROUPS)
    overflows = sum(first_fit_decreasing(g, plan.rows, plan.capacity) is None for g in groups)
    if overflows <= OVERFLOW_SHARE * SAMPLE_GROUPS and _targets_fit(piece.bare, W, plan):
      return W
  raise ValueError(
    f'a group of {plan.rows} rows of {plan.capacity} tokens must hold at least one example; got '
    f'lengths up to {piece.whole.max(axis=0).tolist()}. Set --config.packing.row_length'
  )


def _targets_fit(bare: np.ndarray, W: int, plan: Plan) -> bool:
  """Whether W examples without any history or text fit, in every group that the stream will ever hold.

  As many as rows always do. More must leave room for six standard deviations of a group's tokens, which
  is tried by packing as many more examples; half of the tries must fit.
  """
  if plan.rows * int(np.min(np.asarray(plan.capacity) // bare.max(axis=0))) >= W:
    return True
  spread = np.max(bare.std(axis=0) / bare.mean(axis=0))
  size = W + int(np.ceil(6 * np.sqrt(W) * spread))
  groups = [bare[(start + np.arange(size)) % len(bare)] for start in range(0, len(bare), size)]
  fits = [first_fit_decreasing(g, plan.rows, plan.capacity) is not None for g in groups]
  return np.mean(fits) >= 0.5


def _guess(lengths: np.ndarray, plan: Plan) -> int:
  """The examples of mean length that fill the rows on the side that is full first."""
  return max(int(plan.rows * np.min(np.asarray(plan.capacity) / lengths.mean(axis=0))), 1)


def fit(examples: list[Example], plan: Plan) -> tuple[list[Example], np.ndarray, int]:
  """Leaves out what may be left out until the group fits.

  First the oldest items of the longest history; where no history is left, the end of the longest text; never a
  target.

  Returns:
    The examples, the row of each, and how many items and text tokens were left out.

  Raises:
    ValueError: the targets alone do not fit.
  """
  before = sum(len(example.inputs) for example in examples)
  examples = [_alone(example, plan) for example in examples]
  while True:
    lengths = np.array([plan.lengths(example) for example in examples])
    row_of = first_fit_decreasing(lengths, plan.rows, plan.capacity)
    if row_of is not None:
      return examples, row_of, before - sum(len(example.inputs) for example in examples)
    # At least a token, and all that the sum of the lengths asks for, before packing again.
    missing = max(int(lengths[:, 0].sum()) - plan.rows * plan.row_length, 1)
    while missing > 0:
      spare = np.array([example.spare for example in examples])
      kind = 0 if spare[:, 0].any() else 1
      longest = int(np.argmax(spare[:, kind]))
      if not spare[longest, kind]:
        raise ValueError(
          f'the targets of {plan.examples} examples must fit in {plan.rows} rows of {plan.capacity} '
          f'tokens, without any history or text; got {lengths.sum(axis=0).tolist()} tokens. Set '
          '--config.packing.examples lower or --config.packing.rows higher'
        )
      shorter = examples[longest].shorter(missing)
      missing -= len(examples[longest].inputs) - len(shorter.inputs)
      examples[longest] = shorter


def _alone(example: Example, plan: Plan) -> Example:
  """The example cut to the length of a row."""
  while (excess := plan.lengths(example)[0] - plan.row_length) > 0 and any(example.spare):
    example = example.shorter(excess)
  return example


def pack(group: list[tuple[Part, Example]], plan: Plan) -> dict[str, np.ndarray]:
  """The rows of one group.

  Args:
    group: W examples with the part of the mixture that each is of.
    plan: the sizes.

  Returns:
    int32 `tokens`, `targets` (of the position before: next-token prediction), `segments` (from 1; 0 is
    padding) and `positions` (from 0 in each segment), float32 `weights`, each `[R, T]`; for an
    encoder–decoder these are the target side, and `encoder_tokens`, `encoder_segments` and
    `encoder_positions` the inputs. And int32 `[R]` `dropped`, whose sum is the tokens of histories and texts left out.
  """
  examples, row_of, dropped = fit([example for _, example in group], plan)
  sides = {'': plan.capacity[-1]}
  if plan.decoder_row_length:
    sides['encoder_'] = plan.row_length
  arrays = {
    side + name: np.zeros((plan.rows, length), np.int32)
    for side, length in sides.items()
    for name in ('tokens', 'segments', 'positions')
  }
  arrays['targets'] = np.zeros_like(arrays['tokens'])
  arrays['weights'] = np.zeros(arrays['tokens'].shape, np.float32)
  ends = {side: np.zeros(plan.rows, np.int64) for side in sides}
  segments_R = np.zeros(plan.rows, np.int64)
  for (part, _), example, row in zip(group, examples, row_of, strict=True):
    segments_R[row] += 1
    if plan.decoder_row_length:
      read = {'encoder_': example.inputs, '': np.append(plan.start_id, example.targets[:-1])}
      learnt = example.targets
    else:
      whole = np.concatenate([example.inputs, example.targets])
      read, learnt = {'': whole[:-1]}, whole[1:]
    for side, tokens in read.items():
      at = slice(ends[side][row], ends[side][row] + len(tokens))
      arrays[side + 'tokens'][row, at] = tokens
      arrays[side + 'segments'][row, at] = segments_R[row]
      arrays[side + 'positions'][row, at] = np.arange(len(tokens))
      ends[side][row] = at.stop
    end = ends[''][row]
    arrays['targets'][row, end - len(learnt) : end] = learnt
    weights = part.component.loss_weight
    if example.learnt is not None:
      weights = weights * example.learnt
    arrays['weights'][row, end - len(example.targets) : end] = weights
  # A number a row, so that it travels like the rest of the batch.
  return arrays | {'dropped': np.array([dropped] + [0] * (plan.rows - 1), np.int32)}
