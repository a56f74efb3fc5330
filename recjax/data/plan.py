"""Chooses the number of examples in a packing group (W)."""

import dataclasses

import numpy as np

from recjax.data.mixture import Mixture
from recjax.data.packing import Plan, first_fit_decreasing
from recjax.data.tasks.base import Example
from recjax.schema.checks import check
from recjax.schema.stream import Packing
from recjax.sids.token_space import TokenSpace

SAMPLE_GROUPS = 64  # number of sampled groups that determine W
OVERFLOW_SHARE = 0.05  # W is the largest that overflows in at most this share of the sampled groups


def make_plan(
  mixture: Mixture,
  packing: Packing,
  is_encoder_decoder: bool = False,
  start_id: int = 0,
  space: TokenSpace | None = None,
) -> Plan:
  """Chooses W: the configured number, or the largest that fits every interval of the stream.

  Args:
    mixture: the stream of examples.
    packing: the config section.
    is_encoder_decoder: whether inputs and targets have rows of their own.
    start_id: the first token that the decoder of an encoder–decoder reads.
    space: the token ids.

  Raises:
    ValueError: a row is too short for one example, or a group for W of them.
  """
  decoder_row_length = packing.decoder_row_length if is_encoder_decoder else 0
  plan = Plan(
    *(packing.examples or 1, packing.rows, packing.row_length, decoder_row_length, start_id, space)
  )
  samples = [_Sizes.of([example for _, example in sample], plan) for sample in mixture.survey]
  _check_answers(mixture, plan)
  _check_longest(samples, plan)
  if packing.examples is not None:
    check(
      all(_targets_fit(sample, plan.examples, plan) for sample in samples),
      f'packing.examples must fit in {plan.rows} rows of {plan.sides} tokens without histories and texts',
      packing.examples,
      'packing.examples',
    )
    return plan
  W = min(_largest_that_fits(sample, plan) for sample in samples)
  return dataclasses.replace(plan, examples=W)


def _check_longest(samples: list['_Sizes'], plan: Plan) -> None:
  """Raises a ValueError if an example does not fit in a row, even without its history and text."""
  fields, sides = ['row_length', 'decoder_row_length'], len(plan.sides)
  longest = np.max([sample.least[:, :sides].max(axis=0) for sample in samples], axis=0)
  for needed, size, field in zip(longest, plan.sides, fields, strict=False):
    if needed > size:
      raise ValueError(
        f'a row must hold every example without its history and its text, up to {needed} tokens; got '
        f'packing.{field}={size}. Set --config.packing.{field}, or shorter items in the mixture'
      )
  most = max(int(sample.least[:, sides:].max(initial=0)) for sample in samples)
  if most > plan.level_capacity:
    field, L = fields[sides - 1], plan.space.num_levels
    raise ValueError(
      f'a row must hold the SID tokens of every example, up to {most} of one level; got '
      f'packing.{field}={plan.sides[-1]}, which has room for {plan.level_capacity} of each of {L} '
      f'levels. Set --config.packing.{field}={most * L}'
    )


def longest_answers(mixture: Mixture, plan: Plan) -> dict[str, int]:
  """Returns for each component with a bound on its answers the positions that a row needs for the longest one.

  For a decoder they include the prompt without histories and texts, as long as in the sample of the stream.
  """
  needed = {}
  for part in mixture.parts:
    longest = part.component.longest_answer(mixture.corpus)
    if longest and not plan.decoder_row_length:
      examples = (e for sample in mixture.survey for owner, e in sample if owner is part)
      longest += max((len(e.inputs) - sum(e.spare) for e in examples), default=1) - 1
    if longest:
      needed[part.name] = longest
  return needed


def _check_answers(mixture: Mixture, plan: Plan) -> None:
  """Raises a ValueError if an answer that the sample of the stream lacks may not fit in a row."""
  field, size = ('row_length', 'decoder_row_length')[len(plan.sides) - 1], plan.sides[-1]
  for name, needed in longest_answers(mixture, plan).items():
    if needed > size:
      raise ValueError(
        f'a row must hold the longest answer of mixture.{name}, {needed} tokens without history; got '
        f'packing.{field}={size}. Set --config.packing.{field}={needed}, or fewer items or '
        f'--config.mixture.{name}.title_tokens for its answers'
      )


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """The sizes of a sample of examples from one interval of the stream.

  Sizes have one column per side, in positions. They have one more column per SID level if some example holds
  more tokens of a level than complete semantic IDs would.

  Attributes:
    full: int `[n, sizes]`, sizes of the examples.
    least: int `[n, sizes]`, sizes without histories and texts.
    capacity: int `[sizes]`, capacity of a row.
  """

  full: np.ndarray
  least: np.ndarray
  capacity: np.ndarray

  @classmethod
  def of(cls, examples: list[Example], plan: Plan) -> '_Sizes':
    """Measures the examples; a history longer than a row counts as a full row."""
    lengths = np.array([plan.lengths(example) for example in examples])
    least = lengths.copy()
    least[:, 0] -= [sum(example.spare) for example in examples]
    full = np.minimum(lengths, np.maximum(least, plan.sides))
    capacity = np.array(plan.sides)
    counts = plan.level_counts(examples)
    if (counts.max(axis=1, initial=0) * counts.shape[1] > lengths[:, -1]).any():
      least_counts = plan.level_counts([example.without_spare() for example in examples])
      counts = np.minimum(counts, np.maximum(least_counts, plan.level_capacity))
      full, least = np.hstack([full, counts]), np.hstack([least, least_counts])
      capacity = np.append(capacity, [plan.level_capacity] * counts.shape[1])
    return cls(full, least, capacity)


def _groups(sizes: np.ndarray, W: int, count: int) -> list[np.ndarray]:
  """Returns `count` groups of W consecutive examples, spread over the sample, which wraps around."""
  starts = np.arange(count) * len(sizes) // count
  return [sizes[(start + np.arange(W)) % len(sizes)] for start in starts]


def _largest_that_fits(sample: _Sizes, plan: Plan) -> int:
  """Returns the largest W that overflows in at most OVERFLOW_SHARE of the sampled groups."""
  guess = _guess(sample, plan)
  for W in range(guess, 0, -max(guess // 200, 1)):
    groups = _groups(sample.full, W, SAMPLE_GROUPS)
    overflows = sum(first_fit_decreasing(g, plan.rows, sample.capacity) is None for g in groups)
    if overflows <= OVERFLOW_SHARE * SAMPLE_GROUPS and _targets_fit(sample, W, plan):
      return W
  raise ValueError(
    f'a group of {plan.rows} rows of {plan.sides} tokens must hold at least one example; got '
    f'lengths up to {sample.full.max(axis=0).tolist()}. Set --config.packing.row_length'
  )


def _targets_fit(sample: _Sizes, W: int, plan: Plan) -> bool:
  """Returns whether W examples without histories and texts fit in every group of the stream.

  They always fit if every row holds its share of the longest examples. Otherwise six standard deviations of
  a group's tokens must stay free. To test this, groups of correspondingly more examples are packed: at least
  half of them must fit.
  """
  least = np.maximum(sample.least, 1)
  if plan.rows * int(np.min(sample.capacity // least.max(axis=0))) >= W:
    return True
  spread = np.max(sample.least.std(axis=0) / least.mean(axis=0))
  size = W + int(np.ceil(6 * np.sqrt(W) * spread))
  starts = range(0, len(sample.least), size)
  groups = [sample.least[(start + np.arange(size)) % len(sample.least)] for start in starts]
  fits = [first_fit_decreasing(g, plan.rows, sample.capacity) is not None for g in groups]
  return np.mean(fits) >= 0.5


def _guess(sample: _Sizes, plan: Plan) -> int:
  """Returns the number of mean-sized examples that fill the rows; the size that fills first decides."""
  means = np.maximum(sample.full.mean(axis=0), 1e-9)
  return max(int(plan.rows * np.min(sample.capacity / means)), 1)
