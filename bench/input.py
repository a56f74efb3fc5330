"""Speed of the input pipeline on one thread, compared with a data set that tokenizes on the fly.

Command:  python -m bench.input --config=configs/beauty.py:tasks [--users=10000000]   (after --mode=prepare)

Measures the config's mixture, and its `next_item` component alone. If torch is installed, the peer is a
`torch.utils.data.DataLoader` in this process over the same (task, unit) pairs: it writes each example as text,
tokenizes it, and pads batches. --users also measures the memory of the pipeline with a random log of that many
users. --interactions=1000000000 [--hosts=8] measures one host's share of a random log of that size, and nothing else.
"""

import dataclasses
import os
import resource
import tempfile
import time

from absl import app, flags
import numpy as np

from bench import input_peer, input_scale
from bench.circumstances import circumstances, write
from recjax import config as config_lib
from recjax import models, train
from recjax.data.dataset import Dataset
from recjax.data.sequences import Sequences, offsets_of
from recjax.schema import flag as config_flag
from recjax.workdir import identity, sizes

_CONFIG = config_flag.define(identity.read_config_dict)
_SECONDS = flags.DEFINE_float('seconds', 10.0, 'Seconds of each measurement.')
_USERS = flags.DEFINE_integer(
  'users', 0, 'Users of the random log whose memory is measured; 0: none.'
)
_INTERACTIONS = flags.DEFINE_integer(
  'interactions', 0, 'Interactions of the random log of which one host reads its share; 0: none.'
)
_HOSTS = flags.DEFINE_integer('hosts', 8, 'With --interactions: number of hosts.')
_DELAY = flags.DEFINE_float('delay', 0.03, 'With --interactions: seconds of a range of a bucket.')
_SCRATCH = flags.DEFINE_string('scratch', None, 'With --interactions: folder of the log.')


def measure(config: config_lib.Config, seconds: float) -> dict[str, float]:
  """Measures speed, utilisation and time to the first batch of a mixture, on this thread."""
  start = time.perf_counter()
  dataset = Dataset.load(config.prepared)
  stream = train.make_stream(config, dataset)
  plan = stream.plan
  group = input_scale.FAR // plan.examples
  stream.group(group)
  first_seconds = time.perf_counter() - start
  start, groups = time.perf_counter(), []
  while time.perf_counter() - start < seconds:
    groups.append(stream.group(group + 1 + len(groups)))
  elapsed = time.perf_counter() - start
  main = 'encoder_segments' if models.family(config.model).is_encoder_decoder else 'segments'
  filled = np.array([arrays[main] > 0 for arrays in groups])
  return {
    'examples_per_sec': len(groups) * plan.examples / elapsed,
    'tokens_per_sec': float(filled.sum() / elapsed),
    'utilisation': float(filled.mean()),
    'padding_only_rows': float((~filled.any(axis=2)).mean()),
    'tokens_left_out_share': float(
      sum(arrays['dropped'].sum() for arrays in groups) / filled.sum()
    ),
    'examples_per_group': plan.examples,
    'rows_per_group': plan.rows,
    'seconds_to_first_batch_at_example_1e9': first_seconds,
  }


def with_rows(config: config_lib.Config, rows: int) -> config_lib.Config:
  """Returns the config with `rows` rows in a packing group and in a batch."""
  packing_config = dataclasses.replace(config.packing, rows=rows, examples=None)
  return dataclasses.replace(config, packing=packing_config, batch_size=rows)


def memory(config: config_lib.Config, users: int) -> dict[str, float]:
  """Measures the peak memory, in GiB, of a pipeline process over a memory-mapped random log of `users` users."""
  dataset = Dataset.load(config.prepared)
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    lengths = np.minimum(3 + rng.geometric(0.2, users), 50)
    offsets = offsets_of(lengths)
    values = np.lib.format.open_memmap(
      os.path.join(folder, 'items.npy'), 'w+', np.int32, (int(offsets[-1]),)
    )
    for at in range(0, len(values), 1 << 24):
      block = values[at : at + (1 << 24)]
      block[:] = rng.integers(0, dataset.num_items, len(block))
    values.flush()
    np.save(os.path.join(folder, 'offsets.npy'), offsets)
    del values, offsets, lengths
    pid = os.fork()  # a new process, whose memory does not include the creation of the log
    if pid == 0:
      mapped = Sequences(
        np.load(os.path.join(folder, 'items.npy'), mmap_mode='r'),
        np.load(os.path.join(folder, 'offsets.npy'), mmap_mode='r'),
      )
      stream = train.make_stream(config, dataclasses.replace(dataset, train=mapped))
      for group in range(20):
        stream.group(group)
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      with open(os.path.join(folder, 'peak'), 'w') as f:
        f.write(str(peak))
      os._exit(0)
    os.waitpid(pid, 0)
    with open(os.path.join(folder, 'peak')) as f:
      return {'users': users, 'peak_gib': int(f.read()) / 2**20}


def speed(config: config_lib.Config) -> dict[str, dict[str, float]]:
  """Measures the mixture, its parts and the peer."""
  alone = dataclasses.replace(config, mixture={'next_item': config.mixture['next_item']})
  results = {
    'next_item': measure(alone, _SECONDS.value),
    'mixture': measure(config, _SECONDS.value),
  }
  W, R = (results['mixture'][f'{name}_per_group'] for name in ('examples', 'rows'))
  for least in (256, 1024):
    rows = with_rows(config, int(np.ceil(least * R / W * 1.03)))
    results[f'mixture, W >= {least}'] = measure(rows, _SECONDS.value / 4)
  peer = input_peer.measure(config, _SECONDS.value)
  if peer is not None:
    results['peer: DataLoader, tokenized on the fly'] = peer
    ratio = results['mixture']['examples_per_sec'] / peer['examples_per_sec']
    results['mixture over peer'] = {'ratio': ratio}
  if _USERS.value:
    results['memory'] = memory(alone, _USERS.value)
  return results


def main(_) -> None:
  config = config_lib.from_config_dict(_CONFIG.value)
  config = sizes.resolved(config, Dataset.load(config.prepared))
  if _INTERACTIONS.value:
    scale = _INTERACTIONS.value, _HOSTS.value, _DELAY.value, _SCRATCH.value
    alone = dataclasses.replace(config, mixture={'next_item': config.mixture['next_item']})
    results = input_scale.measure(alone, *scale)
  else:
    results = speed(config)
  for title, result in results.items():
    print(title)
    for name, value in result.items():
      print(f'  {name:<40} {value:,.3f}')
  write({'circumstances': circumstances()} | results)


if __name__ == '__main__':
  app.run(main, flags_parser=config_flag.parse_flags)
