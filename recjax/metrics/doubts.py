"""Signs in finished results that a model has learnt nothing of use. Each is one line for the log."""

from collections.abc import Iterator, Sequence

import numpy as np

FEW = 20  # steps or rows below which nothing is said


def of_ranking(ranked_UM: np.ndarray, scores_UM: np.ndarray, num_items: int) -> Iterator[str]:
  """Yields doubts about rankings: equal scores, or the same items for everyone.

  Args:
    ranked_UM: item indices, best first; -1 after the end of a list.
    scores_UM: their scores.
    num_items: items of the catalogue.
  """
  U, M = ranked_UM.shape
  if U < FEW or M < 2:
    return
  ends = np.maximum((ranked_UM >= 0).sum(axis=1) - 1, 0)
  equal = (ends > 0) & (scores_UM[np.arange(U), ends] == scores_UM[:, 0])
  if equal.mean() > 0.5:
    yield (
      f'in {int(equal.sum())} of {U} rankings all items have one score: the model cannot tell items apart. Are the '
      'SID rows trained, and do they differ at the start?'
    )
  first = np.unique(ranked_UM[:, 0])
  if len(first) == 1 and first[0] >= 0 and num_items > 2 and not equal.mean() > 0.5:
    yield (
      f'the first item is the same in all {U} rankings: the model ignores the history. Train longer, or check the '
      'learning rate and the parameters that are trained'
    )


def of_losses(losses: Sequence[float]) -> Iterator[str]:
  """Yields a doubt if the losses of a training, in the order of its steps, did not fall."""
  tenth = len(losses) // 10
  if len(losses) < FEW:
    return
  begin, end = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
  if end >= begin:
    yield (
      f'the loss did not fall: its mean was {begin:.4f} in the first {tenth} steps and {end:.4f} in the last '
      f'{tenth}. Check --config.optim.learning_rate and the parameters that are trained'
    )
