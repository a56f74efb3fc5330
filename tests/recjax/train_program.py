"""Trains on the tiny world for kills_test.py, without evaluations, which would take most of the time.

  python -m tests.recjax.train_program WORKDIR PREPARED_DIR STEPS [staged | slow | sharded | grpo | copied MEMORY_FOLDER]

staged: two stages of STEPS steps each. slow: at least 0.2 s a step. sharded: a 2 x 2 x 2 mesh of eight devices.
grpo: after two supervised steps, STEPS slow ones of that kind. copied: slow, parameters over all devices, no checkpoint before the end but a copy in memory every third step.
"""

import sys
import time
import types

from etils import epath
import numpy as np

from configs import demo
from recjax import config as config_lib
from recjax import train
from recjax import train as train_lib
from recjax.data.dataset import Dataset
from recjax.evaluate import make_context
from recjax.metrics.evaluators.base import Result
from recjax.runtime import distributed, logs, preemption
from recjax.sharding import mesh as mesh_lib


def config(prepared_dir, num_train_steps, how, memory):
  """Returns a config without dropout, whose masks depend on the topology."""
  tiny = demo.get_config('tiny')
  tiny.data.prepared_dir = prepared_dir
  tiny.model.dropout = 0.0
  tiny.num_train_steps = num_train_steps
  tiny.checkpoint_every_steps = 8
  tiny.eval_every_steps = 10_000
  if how == 'sharded':
    tiny.mesh.fsdp = tiny.mesh.tensor = 2
  if how == 'copied':
    tiny.mesh.data, tiny.mesh.fsdp = 1, -1
    tiny.checkpoint_every_steps = 10_000
    tiny.checkpoint.update(memory_every=3, memory_folder=memory)
  if how == 'staged':
    tiny.stages = config_lib.ordered(
      first=config_lib.stage(num_train_steps), second=config_lib.stage(num_train_steps)
    )
  if how == 'grpo':
    rl = {'kind': 'grpo', 'batch_size': 8, 'checkpoint_every_steps': 2, 'learning_rate': 1e-3}
    tiny.stages = config_lib.ordered(
      first=config_lib.stage(2),
      second=config_lib.stage(num_train_steps, **rl, grpo={'group': 4, 'kl': 0.1, 'updates': 2}),
    )
  return config_lib.from_config_dict(tiny)


def main(workdir, prepared_dir, steps, how='', memory=None, *_):
  preemption.exit_on_sigterm()
  preemption.handle_sigint()
  distributed.initialize()
  logs.set_up()
  settings = config(prepared_dir, int(steps), how, memory)
  mesh = mesh_lib.make_mesh(settings.mesh)
  names = [f'{metric}@{k}' for metric in ('recall', 'ndcg') for k in (5, 10)]
  results = {name + suffix: 0.0 for name in names for suffix in ('', '_stderr')}
  train.evaluated = lambda *_: Result(results, np.arange(1))
  if how in ('slow', 'grpo', 'copied'):
    reached = preemption.Watch.reached
    preemption.Watch.reached = lambda watch: time.sleep(0.2) or reached(watch)
  dataset = Dataset.load(prepared_dir)
  context = make_context(settings, dataset, mesh, types.SimpleNamespace())
  train_lib.train_stages(settings, epath.Path(workdir), context)


if __name__ == '__main__':
  main(*sys.argv[1:])
