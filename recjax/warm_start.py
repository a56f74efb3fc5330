"""The parameters that a run begins with when it does not begin from scratch."""

import logging
from typing import Any

import jax
import numpy as np

from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.models import pretrained
from recjax.sids import rows

log = logging.getLogger(__name__)


def pretrained_params(config: config_lib.Config, fresh: Any, dataset: Dataset) -> Any:
  """The weights of `model.pretrained` in the shards of `fresh`, SID rows as `model.sid_rows` says.

  Args:
    config: of the run.
    fresh: the initial parameters, nested dicts of arrays on the mesh; `random` keeps their SID rows.
    dataset: for its vocabulary.

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
    keywords = rows.read_keywords(config.model.sid_keywords)
    names = pretrained.sid_names(space)
    for name in [name for name in tables if name.startswith('sid')]:  # an untied output has its own
      text_VD = np.asarray(tables[name.replace('sid', 'text')])[: dataset.vocabulary.num_pieces]
      new = np.zeros(tables[name].shape, np.float32)
      new[: space.sid_size] = rows.semantic_rows(
        text_VD, names, keywords, dataset.vocabulary.encode
      )
      tables[name] = jax.device_put(new, tables[name].sharding)
  log.info('pretrained weights of %s, SID rows %s', config.model.pretrained, config.model.sid_rows)
  return params | {'tables': tables}
