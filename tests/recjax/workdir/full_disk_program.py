"""Saves a small checkpoint and one that does not fit, and checks the rest; run by checkpoints_test.py."""

import resource
import sys

import jax
import numpy as np

from recjax.runtime import logs
from recjax.workdir.checkpoints import Checkpoints
from tests.recjax.workdir.checkpoints_test import META, state

logs.set_up()
workdir, limit = sys.argv[1], int(sys.argv[2])
if limit:
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
checkpoints = Checkpoints(workdir, max_to_keep=2)
checkpoints.save(1, state(1), META, None)
noise = jax.random.normal(
  jax.random.key(0), (4_000_000,)
)  # 16 MB of noise, which does not compress
checkpoints.save(2, state(2) | {'params': {'noise': noise}}, META, None)
try:
  checkpoints.wait()
except OSError as error:
  print(f'message: {error}')
checkpoints.save(3, state(3), META, None)  # there is room for small ones
checkpoints.close()
with Checkpoints(workdir, read_only=True) as checkpoints:
  for step in (1, 3):
    restored = checkpoints.restore(step, jax.eval_shape(lambda: state(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, state(step))
  print(f'whole: {checkpoints.latest_step()}')
