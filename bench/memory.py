"""Computes the bytes of parameters, gradients and optimizer, by model size and trained parameters.

The bytes are computed from the shapes of the training state. Activations, blocks of the loss and temporaries of XLA
are not included; these grow with the batch, and `--config.model.remat=full` and smaller batches reduce them.

Command:  python -m bench.memory --sizes=t5_base,gemma3_270m,gemma2_2b [--rank=16]
"""

import math
from typing import Any

from absl import app, flags
import jax

from bench.circumstances import circumstances, write
from bench.train_step import SIDS, text_rows
from recjax import config as config_lib
from recjax.models import families
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import optim
from recjax.training import state as state_lib

WAYS = ('full', 'lora', 'sid_rows')

_SIZES = flags.DEFINE_list(
  'sizes',
  'flan_t5_base,flan_t5_xl,gemma3_270m,gemma3_1b,gemma2_2b,gemma3_4b,gemma2_9b,llama3_2_1b,llama3_2_3b,'
  'llama3_1_8b,qwen3_0_6b,qwen3_4b,qwen3_5_0_8b,qwen3_5_4b,qwen3_5_9b',
  'Names of published model sizes.',
)
_RANK = flags.DEFINE_integer('rank', 16, 'Rank of the LoRA adapters.')


def _bytes(tree: Any) -> int:
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def training_bytes(size: str, way: str, rank: int = 16) -> dict[str, int]:
  """Returns the bytes of `parameters`, `gradients` and `optimizer`, all float32 with AdamW.

  Args:
    size: name of a published size; four SID levels of 256 codes are added.
    way: one of WAYS. 'full' trains every parameter, 'lora' adapters on all kernels, 'sid_rows' only the table rows
      of SID tokens.
    rank: rank of the adapters.
  """
  config_dict = config_lib.defaults(source='synthetic', name='memory')
  config_dict.model.update(size=size, family=families.by_size(size).name)
  if way == 'lora':
    config_dict.model.lora_rank = rank
  if way == 'sid_rows':
    config_dict.optim.groups = config_lib.ordered(
      sid=config_lib.group('tables/sid'), rest=config_lib.group('', frozen=True)
    )
  config = config_lib.from_config_dict(config_dict)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  space, mesh = TokenSpace(text_rows(size), SIDS), mesh_lib.make_mesh(config.mesh)
  state = state_lib.abstract_state(config.model, space, tx, mesh)
  return {
    'parameters': _bytes(state.params),
    'gradients': _bytes(optim.split(state.params, config.optim)[0]),
    'optimizer': _bytes(state.opt_state),
  }


def main(_) -> None:
  print('GB of parameters, gradients and optimizer in training (float32, AdamW)\n')
  print(f'| size | parameters | full | LoRA, rank {_RANK.value} | only SID rows |')
  print('|---|---|---|---|---|')
  results = {}
  for size in _SIZES.value:
    found = results[size] = {way: training_bytes(size, way, _RANK.value) for way in WAYS}
    sums = ' | '.join(f'{sum(parts.values()) / 1e9:.1f}' for parts in found.values())
    print(f'| {size} | {found["full"]["parameters"] // 4:,} | {sums} |', flush=True)
  write({'circumstances': circumstances()} | results)


if __name__ == '__main__':
  app.run(main)
