"""Packing groups: W consecutive examples of the stream become exactly R rows of T positions."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from recjax.config import Packing
from recjax.data.mixture import Mixture, Part
from recjax.data.tasks import Example

SAMPLE_GROUPS = 64  # groups whose lengths decide W
OVERFLOW_SHARE = 0.05  # W is the largest that overflows in at most this share of the sampled groups


@dataclasses.dataclass(frozen=True)
class Plan:
  """The fixed sizes of a group, part of the stream's fingerprint.

  Attributes:
    examples: W.
    rows: R.
    row_length: T.
  """

  examples: int
  rows: int
  row_length: int


def first_fit_decreasing(lengths: Sequence[int], rows: int, row_length: int) -> np.ndarray | None:
  """The row of each length, int `[W]`, or None where they do not fit (Johnson, 1973)."""
  space_R = np.full(rows, row_length)
  row_of = np.empty(len(lengths), np.int64)
  for i in np.argsort(-np.asarray(lengths), kind='stable'):
    row = int(np.argmax(space_R >= lengths[i]))
    if space_R[row] < lengths[i]:
      return None
    space_R[row] -= lengths[i]
    row_of[i] = row
  return row_of


def make_plan(mixture: Mixture, packing: Packing) -> Plan:
  """Fixes W: as configured, or the largest that fits the lengths at the start of the stream.

  Raises:
    ValueError: a row is too short for one example.
  """
  R, T = packing.rows, packing.row_length
  if packing.examples is not None:
    return Plan(packing.examples, R, T)
  lengths = [mixture[n][1].length for n in range(SAMPLE_GROUPS)]
  guess = max(int(R * T / np.mean(lengths)), 1)
  lengths = np.array([mixture[n][1].length for n in range(2 * guess * SAMPLE_GROUPS)])
  if lengths.max() > T:
    raise ValueError(
      f'a row must hold the longest example, of {lengths.max()} tokens; got packing.row_length={T}. '
      'Set --config.packing.row_length, or a smaller max_items in the mixture'
    )
  guess = max(int(R * T / lengths.mean()), 1)
  for W in range(guess, 0, -max(guess // 200, 1)):
    groups = lengths[: W * SAMPLE_GROUPS].reshape(SAMPLE_GROUPS, W)
    overflows = sum(first_fit_decreasing(group, R, T) is None for group in groups)
    if overflows <= OVERFLOW_SHARE * SAMPLE_GROUPS:
      return Plan(W, R, T)
  raise ValueError(
    f'a group of {R} rows of {T} tokens must hold at least one example; got lengths up to '
    f'{lengths.max()}. Set --config.packing.row_length'
  )


def fit(examples: list[Example], plan: Plan) -> tuple[list[Example], np.ndarray, int]:
  """Shortens the longest histories, oldest item first, until the group fits.

  Returns:
    The examples, the row of each, and how many units of history were dropped.

  Raises:
    ValueError: the targets alone do not fit.
  """
  examples, dropped = list(examples), 0
  while True:
    lengths = [example.length for example in examples]
    row_of = first_fit_decreasing(lengths, plan.rows, plan.row_length)
    if row_of is not None:
      return examples, row_of, dropped
    # At least one unit, and all that the sum of the lengths asks for, before packing again.
    missing = max(sum(lengths) - plan.rows * plan.row_length, 1)
    while missing > 0:
      histories = [example.history[1] - example.history[0] for example in examples]
      longest = int(np.argmax(histories))
      if histories[longest] == 0:
        raise ValueError(
          f'the targets of {plan.examples} examples must fit in {plan.rows} rows of '
          f'{plan.row_length} tokens, without any history; got {sum(lengths)} tokens. Set '
          '--config.packing.examples lower or --config.packing.rows higher'
        )
      examples[longest] = examples[longest].without_oldest()
      missing -= examples[longest].history[2]
      dropped += 1


def pack(group: list[tuple[Part, Example]], plan: Plan) -> dict[str, np.ndarray]:
  """The rows of one group.

  Returns:
    int32 `tokens`, `targets` (of the position before: next-token prediction), `segments` (from 1; 0 is
    padding) and `positions` (from 0 in each segment), float32 `weights`, each `[R, T]`; and int64 `[1]`
    `dropped`, the units of history that the group lost.
  """
  examples, row_of, dropped = fit([example for _, example in group], plan)
  shape = (plan.rows, plan.row_length)
  names = ('tokens', 'targets', 'segments', 'positions')
  arrays = {name: np.zeros(shape, np.int32) for name in names}
  weights = np.zeros(shape, np.float32)
  ends_R, segments_R = np.zeros(plan.rows, np.int64), np.zeros(plan.rows, np.int64)
  for (part, _), example, row in zip(group, examples, row_of, strict=True):
    n = example.length
    start, end = ends_R[row], ends_R[row] + n
    tokens = np.concatenate([example.inputs, example.targets])
    segments_R[row] += 1
    arrays['tokens'][row, start:end] = tokens[:-1]
    arrays['targets'][row, start:end] = tokens[1:]
    arrays['segments'][row, start:end] = segments_R[row]
    arrays['positions'][row, start:end] = np.arange(n)
    weights[row, start + len(example.inputs) - 1 : end] = part.loss_weight
    ends_R[row] = end
  return arrays | {'weights': weights, 'dropped': np.array([dropped])}
