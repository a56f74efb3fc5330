"""Small logs without files, for the tests of groups of rows."""

import types

import numpy as np

from recjax.data.sequences import Sequences


def random_log(seed: int, users: int = 60, items: int = 30, context: bool = False):
  """Returns a stand-in of a log under leave-one-out whose items repeat, and its sequences as lists.

  The last item is the test target of two users, and not in the training part.
  """
  rng = np.random.default_rng(seed)
  chances = rng.dirichlet(np.full(items - 1, 0.3))
  rows = [rng.choice(items - 1, rng.integers(2, 14), p=chances).tolist() for _ in range(users)]
  rows[0][-1] = rows[1][-1] = items - 1
  return of_lists([row[:-2] for row in rows], rows, items, rng if context else None), rows


def of_lists(train, rows, items: int, rng=None):
  """Returns a stand-in of a log; `rows` end with the validation and the test target."""
  histories = {'validation': [row[:-2] for row in rows], 'test': [row[:-1] for row in rows]}
  targets = {
    split: np.array([row[n] for row in rows]) for split, n in (('validation', -2), ('test', -1))
  }
  packed = Sequences.from_lists(train)
  marks = None if rng is None else rng.random(len(packed.values)) < 0.6
  return types.SimpleNamespace(
    train=packed,
    num_items=items,
    num_users=len(rows),
    train_is_target=marks,
    num_rows=lambda split: len(rows),
    targets=lambda split: targets[split],
    histories_and_targets=lambda split: (Sequences.from_lists(histories[split]), targets[split]),
    seen=lambda split: Sequences.from_lists(histories[split]),
    row_users=lambda split: np.arange(len(rows)),
  )
