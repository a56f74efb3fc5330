"""The parameters that a run begins with when it does not begin from scratch."""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp

from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.models import pretrained
from recjax.sids import keywords, rows

log = logging.getLogger(__name__)


def pretrained_params(config: config_lib.Config, fresh: Any, dataset: Dataset) -> Any:
  """The weights of `model.pretrained` in the shards of `fresh`, SID rows as `model.sid_rows` says.

  Args:
    config: of the run.
    fresh: the initial parameters, nested dicts of arrays on the mesh; `random` keeps their SID rows.
    dataset: for its vocabulary and its keywords.

  Raises:
    ValueError: the folder or the keywords do not fit.
  """
  space = dataset.vocabulary.space
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), fresh
  )
  params = pretrained.load(config.model.pretrained, shapes, space)
  tables = dict(params['tables'])
  if config.model.sid_rows == 'random':
    tables |= {name: fresh['tables'][name] for name in tables if name.startswith('sid')}
  elif config.model.sid_rows == 'sa_init':
    tables |= _semantic_tables(tables, config.model.sid_keywords, dataset)
  log.info('pretrained weights of %s, SID rows %s', config.model.pretrained, config.model.sid_rows)
  return params | {'tables': tables}


def _semantic_tables(
  tables: dict[str, jax.Array], file: str | None, dataset: Dataset
) -> dict[str, jax.Array]:
  """The SID tables by SA-Init, each from the text table of its own side, in the shards that it has.

  TS-Rec writes the input rows alone, which an output tied to them shares; here an untied output gets
  rows of its own, from its own text rows.
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

  def make(padding: int, text: jax.Array) -> jax.Array:
    new = rows.semantic_rows(text[:num_pieces], pieces_N, rows_N, space.sid_size)
    return jnp.pad(new, ((0, padding), (0, 0)))

  return {
    name: jax.jit(
      functools.partial(make, table.shape[0] - space.sid_size), out_shardings=table.sharding
    )(tables[name.replace('sid', 'text')])
    for name, table in tables.items()
    if name.startswith('sid')
  }
