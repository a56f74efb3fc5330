"""How fast examples become packed rows on one core.

Command:  python -m bench.input --config=configs/beauty.py:cpu   (after --mode=prepare)
"""

import json
import time

from absl import app, flags
from ml_collections import config_flags
import numpy as np

from recjax import config as config_lib
from recjax.data import loader, mixture, packing
from recjax.data.dataset import Dataset, prepared_dir

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.', lock_config=True)
_GROUPS = flags.DEFINE_integer('groups', 200, 'Packing groups to assemble.')
_OUT = flags.DEFINE_string('out', None, 'Where to write the JSON.')


def main(_) -> None:
  config = config_lib.from_config_dict(_CONFIG.value)
  start = time.perf_counter()
  dataset = Dataset.load(prepared_dir(config))
  mix = mixture.build(config, dataset)
  plan = packing.make_plan(mix, config.packing)
  stream = loader.Stream(mix, plan, groups=1)
  stream.group(10**9 // plan.examples)
  first = time.perf_counter() - start
  start = time.perf_counter()
  groups = [stream.group(g) for g in range(_GROUPS.value)]
  seconds = time.perf_counter() - start
  result = {
    'examples_per_sec': _GROUPS.value * plan.examples / seconds,
    'tokens_per_sec': sum(int((g['segments'] > 0).sum()) for g in groups) / seconds,
    'utilisation': float(np.mean([(g['segments'] > 0).mean() for g in groups])),
    'dropped_units_per_group': float(np.mean([g['dropped'][0] for g in groups])),
    'seconds_to_first_batch_at_example_1e9': first,
    'examples_per_group': plan.examples,
    'rows_per_group': plan.rows,
  }
  for name, value in result.items():
    print(f'{name:<40} {value:,.3f}')
  if _OUT.value:
    with open(_OUT.value, 'w') as f:
      json.dump(result, f, indent=2)


if __name__ == '__main__':
  app.run(main)
