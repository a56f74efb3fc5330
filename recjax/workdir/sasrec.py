"""The baseline `sasrec`: its config and its folder, or an earlier run in its place (`eval.sasrec`)."""

import dataclasses
import math
from typing import NamedTuple

from etils import epath
import jax

from recjax import config as config_lib
from recjax.baselines import sasrec
from recjax.config import Config
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.item_dataset import ItemDataset
from recjax.data.tasks.next_item import NextItem
from recjax.schema.blend import Blend, Memory
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import identity, paths, sizes

NAME = 'sasrec'


class Finished(NamedTuple):
  """An earlier run of SASRec: its config, its data, and the component whose prompt its search continues."""

  config: Config
  data: Dataset
  component: NextItem


def is_wanted(config: Config) -> bool:
  """Returns whether a run has the baseline."""
  return NAME in config.eval.baselines or config.eval.sasrec is not None


def folder_in(workdir: epath.Path) -> epath.Path:
  """Returns the workdir of the baseline of a run."""
  return workdir / 'baselines' / NAME


def config_for(
  config: Config, dataset: Dataset, folder: epath.Path, mesh: jax.sharding.Mesh
) -> Config:
  """Returns the config of the baseline of a run: the recipe, with the data, seed and protocol of the run.

  Args:
    config: config of the run.
    dataset: the data of the baseline.
    folder: its workdir; see `sizes.resolved`.
    mesh: the devices; a batch is a multiple of their shards.
  """
  made = config_lib.defaults(source=config.data.source, name=config.data.name)
  made.update(sasrec.RECIPE)
  made.sids.codes = (dataset.num_items,)
  made.eval.ks, made.eval.beams = config.eval.ks, max(config.eval.ks)
  recipe = config_lib.from_config_dict(made)
  unit = math.lcm(mesh_lib.batch_shards(mesh), mesh_lib.host_part(mesh)[1])
  own = dataclasses.replace(
    recipe,
    data=config.data,
    seed=config.seed,
    batch_size=-(-recipe.batch_size // unit) * unit,
    packing=dataclasses.replace(recipe.packing, rows=None),  # as many as the hosts leave
    eval=dataclasses.replace(
      recipe.eval,
      batch_size=config.eval.batch_size,
      exclude_seen=config.eval.exclude_seen,
    ),
    mesh=config.mesh,
    hosts=config.hosts,
    compilation_cache=config.compilation_cache,
  )
  return sizes.resolved(own, dataset, folder, mesh)


def earlier(config: Config, dataset: Dataset) -> tuple[Config, Dataset]:
  """Returns config and data of the run that `eval.sasrec` names.

  Raises:
    OSError, ValueError: it is no run of SASRec, or it has other interactions, another protocol or too few beams.
  """
  other, data, _ = finished(
    *(config.eval.sasrec, dataset, 'eval.sasrec'),
    remedy=', or --config.eval.baselines="(\'sasrec\',)" to train one',
    exclude_seen=config.eval.exclude_seen,
  )
  settings = dataclasses.replace(
    other.eval, ks=config.eval.ks, beams=max(config.eval.ks), memory=Memory(), blend=Blend()
  )
  return dataclasses.replace(other, eval=settings, mesh=config.mesh), data


def finished(
  workdir: str,
  dataset: Dataset,
  field: str,
  remedy: str = '',
  exclude_seen: bool | None = None,
) -> Finished:
  """Returns an earlier run of SASRec over the interactions and the items of a data set.

  Args:
    workdir: workdir of the run.
    dataset: the data of this run.
    field: the field that names the workdir, for the message.
    remedy: what else may be set, for the message.
    exclude_seen: `eval.exclude_seen` that the run must have. None: any.

  Raises:
    OSError, ValueError: it is no run of SASRec, or it has other interactions or items, or another protocol.
  """
  folder = epath.Path(workdir)
  other = identity.required_config(folder)
  place = paths.prepared_data(other, folder)
  plain = Dataset.load(place)
  data = plain if plain.sids.quantizer == 'item' else ItemDataset.load(place)
  same = {
    'model.family': (other.model.family, 'sasrec'),
    'the items': ([item['id'] for item in data.items], [item['id'] for item in dataset.items]),
    'the interactions': (_interactions(data), _interactions(dataset)),
  }
  if exclude_seen is not None:
    same['eval.exclude_seen'] = (other.eval.exclude_seen, exclude_seen)
  different = [name for name, (its, ours) in same.items() if its != ours]
  if different:
    protocol = ' and with the protocol' if exclude_seen is not None else ''
    raise ValueError(
      f'{field} must be a run of SASRec over the interactions{protocol} of this run; {folder} differs in '
      f'{", ".join(different)}. Set --config.{field}{remedy}'
    )
  return Finished(other, data, config_lib.next_item_component(other))


def _interactions(dataset: Dataset) -> list[str]:
  names = ('train_items.npy', 'train_offsets.npy', *(f'{split}_items.npy' for split in SPLITS))
  return [dataset.files_digest('interactions', name) for name in names]
