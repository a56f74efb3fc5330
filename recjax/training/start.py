"""Loads initial parameters from a pretrained model or from another run."""

from collections.abc import Callable
import functools
import logging
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from recjax.data.dataset import Dataset
from recjax.models import lora, pretrained
from recjax.schema.model import Model
from recjax.schema.run import Checkpoint, Training
from recjax.sharding import mesh as mesh_lib
from recjax.sids import keywords, rows
from recjax.training import state as state_lib
from recjax.workdir import item_rows, resume
from recjax.workdir.checkpoints import Checkpoints, read_run

log = logging.getLogger(__name__)

_ADAPTERS = ('lora_rank', 'lora_alpha', 'lora_targets')


def first_params(
  model: Model, checkpoint: Checkpoint, fresh: Any, abstract_params: Any, dataset: Dataset
) -> Any:
  """Returns the parameters before the first step: of `checkpoint.init_from`, pretrained, or random.

  Args:
    model: the model section.
    checkpoint: the checkpoint section.
    fresh: random parameters, nested dicts of arrays on the mesh.
    abstract_params: their ShapeDtypeStructs, with shardings.
    dataset: the data that the run trains on.

  Raises:
    ValueError: see `initial_params`, `pretrained_params` and `with_sid_rows`.
  """
  params = initial_params(checkpoint, model, abstract_params, dataset)
  if params is not None:
    log.info('starting from the parameters of %s', checkpoint.init_from)
  elif model.pretrained is not None:
    params = pretrained_params(model, lora.base(fresh), dataset)
  params = fresh | (params or {})  # they may lack adapters; fresh ones stay
  if (kind := checkpoint.init_sid_rows) is not None:
    params = with_sid_rows(params, kind, fresh, model.sid_keywords, dataset)
    log.info('SID rows: %s', kind)
  return params


def pretrained_params(model: Model, fresh: Any, dataset: Dataset) -> Any:
  """Loads the weights of `model.pretrained` and initializes the SID rows according to `model.sid_rows`.

  Args:
    model: the model section.
    fresh: random parameters, nested dicts of arrays on the mesh. They give the shapes and shardings, and with
      `sid_rows='random'` the SID rows.
    dataset: gives the vocabulary and the keywords.

  Returns:
    Parameters with the structure and the shardings of `fresh`.

  Raises:
    ValueError: the folder does not fit the model, or the keywords are missing or do not fit.
  """
  space = dataset.vocabulary.space
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), fresh
  )
  # No checkpoint has rows of items: they begin as in a run from scratch.
  theirs = {name: x for name, x in shapes['tables'].items() if name != 'items'}
  params = pretrained.load(model.pretrained, shapes | {'tables': theirs}, space)
  params |= {'tables': fresh['tables'] | params['tables']}
  if model.sid_rows != 'mean':  # which a loaded model has
    params = with_sid_rows(params, model.sid_rows, fresh, model.sid_keywords, dataset)
  log.info('pretrained weights of %s, SID rows %s', model.pretrained, model.sid_rows)
  return params


def with_sid_rows(
  params: Any, kind: str, fresh: Any, keywords_file: str | None, dataset: Dataset
) -> Any:
  """Returns parameters with other rows of SID tokens: a kind of `recjax.schema.model.SID_ROWS`.

  Args:
    params: nested dicts of arrays on the mesh.
    kind: 'random', or from the text rows of `params`: their 'mean', or 'sa_init' from the keywords of each token.
    fresh: random parameters, whose rows 'random' takes.
    keywords_file: with 'sa_init': file of the keywords. None: those of the preparation.
    dataset: gives the vocabulary and the keywords.

  Raises:
    ValueError: the keywords are missing or do not fit.
  """
  tables, num_pieces = params['tables'], dataset.vocabulary.num_pieces
  if kind == 'random':
    new = {name: fresh['tables'][name] for name in tables if name.startswith('sid')}
  elif kind == 'mean':
    size = dataset.vocabulary.space.sid_size
    new = _from_text(tables, size, lambda text: jnp.tile(text[:num_pieces].mean(0), (size, 1)))
  else:
    new = _semantic_tables(tables, keywords_file, dataset)
  return params | {'tables': tables | new}


def _semantic_tables(
  tables: dict[str, jax.Array], file: str | None, dataset: Dataset
) -> dict[str, jax.Array]:
  """Initializes the SID tables by SA-Init, in their own shards; see `rows.semantic_rows`.

  The input table starts from the input text rows, an untied output table from the output text rows. TS-Rec
  initializes only the input rows, which a tied output shares.
  """
  vocabulary = dataset.vocabulary
  if file is not None:
    entries = keywords.read(file, 'model.sid_keywords')
  elif (entries := dataset.keywords) is None:
    raise ValueError(
      f'{dataset.folder / keywords.FILE} must exist for model.sid_rows=sa_init; it does not. Run '
      '--mode=prepare with this config, or set --config.model.sid_keywords'
    )
  space, num_pieces = vocabulary.space, vocabulary.num_pieces
  by_token = {entry['token']: entry['keywords'] for entry in entries}
  pieces_N, rows_N = rows.keyword_pieces(space.sid_names, by_token, vocabulary.encode)

  def make(text: jax.Array) -> jax.Array:
    return rows.semantic_rows(text[:num_pieces], pieces_N, rows_N, space.sid_size)

  return _from_text(tables, space.sid_size, make)


def _from_text(
  tables: dict[str, jax.Array], size: int, make: Callable[[jax.Array], jax.Array]
) -> dict[str, jax.Array]:
  """Returns SID tables, each made from the text table beside it, in its own shards and with its padding."""

  def padded(padding: int, text: jax.Array) -> jax.Array:
    return jnp.pad(make(text), ((0, padding), (0, 0)))

  return {
    name: jax.jit(functools.partial(padded, table.shape[0] - size), out_shardings=table.sharding)(
      tables[name.replace('sid', 'text')]
    )
    for name, table in tables.items()
    if name.startswith('sid')
  }


def best_params(
  config: Training, workdir: epath.Path, dataset: Dataset, mesh: jax.sharding.Mesh
) -> tuple[Any, int]:
  """Returns the parameters of the workdir's best checkpoint, on a mesh, and its step.

  Raises:
    ValueError: the workdir has no undamaged checkpoint, or the data have another code space or tokenizer.
  """
  abstract = state_lib.abstract_params(config.model, dataset.vocabulary.space, mesh)

  def choose(checkpoints: Checkpoints) -> int:
    step = checkpoints.best_step()
    if step is None:
      raise ValueError(
        f'{checkpoints.folder} must hold an undamaged checkpoint; it has none. Set --workdir'
      )
    return step

  def read(checkpoints: Checkpoints, step: int):
    meta = checkpoints.meta(step)
    resume.check_tokens(meta, dataset, checkpoints.folder)
    params = item_rows.restored(checkpoints, step, abstract, meta.config['model'], dataset)
    return jax.block_until_ready(params), step

  return read_run(workdir, choose, read)


def _restore_target(abstract_params: Any, source_model: dict[str, Any]) -> Any:
  """Returns ShapeDtypeStructs for a checkpoint of another run, which may have other adapters.

  Args:
    abstract_params: ShapeDtypeStructs of this run's parameters.
    source_model: model section of the other run.
  """
  abstract = lora.base(abstract_params)
  rank = source_model.get('lora_rank', 0)
  if rank == 0:
    return abstract
  shapes = jax.eval_shape(
    lambda params: {
      lora.NAME: lora.init(jax.random.key(0), params, rank, source_model['lora_targets'])
    },
    abstract,
  )
  shardings = mesh_lib.tree_shardings(shapes, jax.tree.leaves(abstract)[0].sharding.mesh)
  adapters = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )
  return abstract | adapters


def initial_params(
  checkpoint: Checkpoint, model: Model, abstract_params: Any, dataset: Dataset
) -> dict[str, Any] | None:
  """Reads the parameters of `checkpoint.init_from`: its best or, with `init_from_last`, its newest checkpoint.

  Adapters with the rank, alpha and targets of `model` are kept. Other adapters are merged into the kernels.

  Args:
    checkpoint: the checkpoint section.
    model: the model section.
    abstract_params: ShapeDtypeStructs of the parameters, with shardings.
    dataset: the data that the run trains on.

  Returns:
    Nested dicts of arrays, with the shardings of `abstract_params`. None: `init_from` is not set.

  Raises:
    ValueError: the workdir has no checkpoint, or its code space or tokenizer differs from those of the data.
  """
  source = checkpoint.init_from
  if source is None:
    return None
  folder = epath.Path(source) / 'checkpoints'
  if not folder.exists():
    raise ValueError(
      f'checkpoint.init_from must be the workdir of a run; {folder} does not exist. '
      'Set --config.checkpoint.init_from'
    )

  def choose(checkpoints: Checkpoints) -> int:
    last = checkpoint.init_from_last
    step = checkpoints.latest_step() if last else checkpoints.best_step()
    if step is None:
      raise ValueError(
        f'checkpoint.init_from must hold a checkpoint; {folder} has none. '
        'Set --config.checkpoint.init_from'
      )
    return step

  def read(checkpoints: Checkpoints, step: int) -> dict[str, Any]:
    meta = checkpoints.meta(step)
    resume.check_tokens(meta, dataset, folder)
    source_model = meta.config['model']
    target = _restore_target(abstract_params, source_model)
    params = item_rows.restored(checkpoints, step, target, source_model, dataset)
    same = all(source_model.get(name) == getattr(model, name) for name in _ADAPTERS)
    if lora.NAME in params and not same:
      shardings = jax.tree.map(lambda x: x.sharding, lora.base(abstract_params))
      params = jax.jit(lora.merge, out_shardings=shardings)(params, source_model['lora_alpha'])
    return jax.block_until_ready(params)

  return read_run(source, choose, read)
