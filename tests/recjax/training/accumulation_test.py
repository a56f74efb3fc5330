"""Micro-batches of a batch."""

import numpy as np

from recjax.training.accumulation import micro_batches


def test_rows_are_dealt_out_and_arrays_may_be_empty():
  batch = {'x': np.arange(12).reshape(6, 2), 'none': np.empty((6, 0), np.int32)}
  made = micro_batches(batch, 3)
  np.testing.assert_array_equal(made['x'], [batch['x'][n::3] for n in range(3)])
  assert made['none'].shape == (3, 2, 0)
