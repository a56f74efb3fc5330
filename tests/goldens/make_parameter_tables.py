"""Writes parameter_tables/: the parameter shardings on eight devices, as a run prints them.

  python -m tests.goldens.make_parameter_tables

A difference changes the placement of parameters on devices: check it before you commit it.
"""

import os
import pathlib

if __name__ == '__main__':
  os.environ |= {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
  }

from recjax import config as config_lib
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import table as parameter_table
from recjax.sids.token_space import TokenSpace
from recjax.training import optim, state

FOLDER = pathlib.Path(__file__).with_name('parameter_tables')
MESHES = ((1, 8, 1), (2, 2, 2), (1, 2, 4))  # data, fsdp, tensor
SIZES = {  # family and text rows of a published size
  'gemma3_270m': ('gemma', 262_144),
  't5_v1_1_small': ('t5', 32_128),
  't5_small': ('t5', 32_128),
}


def tables(size: str) -> str:
  """Returns the tables of a size with AdamW, one for each mesh."""
  family, text_rows = SIZES[size]
  config_dict = config_lib.defaults(source='synthetic', name='tables')
  config_dict.model.update({'family': family, 'size': size})
  config = config_lib.from_config_dict(config_dict)
  space = TokenSpace(text_size=text_rows, level_sizes=(256,) * 4)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  texts = []
  for sizes in MESHES:
    mesh = mesh_lib.make_mesh(Mesh(**dict(zip(mesh_lib.AXES, sizes, strict=True))))
    abstract = state.abstract_state(config.model, space, tx, mesh)
    name = ' x '.join(f'{axis} {n}' for axis, n in zip(mesh_lib.AXES, sizes, strict=True))
    texts += [name, parameter_table.describe(abstract.params, mesh, abstract.opt_state), '']
  return '\n'.join(texts)


def main() -> None:
  FOLDER.mkdir(exist_ok=True)
  for size in SIZES:
    (FOLDER / f'{size}.txt').write_text(tables(size))


if __name__ == '__main__':
  main()
