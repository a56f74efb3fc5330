"""Measures users per second of the constrained beam search, compared with scoring every item of the catalogue.

The peer encodes the history once per item, which is the cost without a trie.

Command:  python -m bench.search --config=configs/beauty.py:cpu   (after --mode=prepare; untrained weights)
"""

import time

from absl import app, flags
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from bench.circumstances import circumstances, show, write
from recjax import config as config_lib
from recjax import models
from recjax.config import next_item_component
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.recommend import make_ranker
from recjax.schema import flag as config_flag
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import identity, sizes

_CONFIG = config_flag.define(identity.read_config_dict)
_USERS = flags.DEFINE_integer('users', 1024, 'Users to search for.')


def _exhaustive_seconds(config, dataset, model, history) -> float:
  """Returns the seconds to score all items after one history in batches of 512, without compilation."""
  prompt = next_item_component(config).inference_prompt(Corpus(dataset, False), history)
  sids_IL = dataset.vocabulary.space.tokens(dataset.sids.codes_IL)
  tokens = np.concatenate([np.tile(prompt, (len(sids_IL), 1)), sids_IL], axis=1)
  positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), (512, tokens.shape[1]))
  hidden = jax.jit(model.hidden)

  def score(rows):
    batch = {'tokens': rows, 'segments': np.ones_like(rows), 'positions': positions}
    return jax.block_until_ready(hidden(jax.tree.map(jnp.asarray, batch)))

  score(np.resize(tokens, (512, tokens.shape[1])))
  start = time.perf_counter()
  for at in range(0, len(tokens), 512):
    score(np.resize(tokens[at : at + 512], (512, tokens.shape[1])))
  return time.perf_counter() - start


def main(_) -> None:
  config = config_lib.from_config_dict(_CONFIG.value)
  dataset = Dataset.load(config.prepared)
  config = sizes.resolved(config, dataset)
  model = models.build(config.model, dataset.vocabulary.space, config.seed)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  ranker = make_ranker(config, dataset, mesh_lib.make_mesh(config.mesh))
  histories, _ = dataset.histories_and_targets('test')
  rows = [histories[u] for u in range(min(_USERS.value, len(histories)))]
  ranker.rank(params, rows)
  start = time.perf_counter()
  ranker.rank(params, rows)
  search = len(rows) / (time.perf_counter() - start)
  exhaustive = 1 / _exhaustive_seconds(config, dataset, model, rows[0])
  result = {
    'beams': config.eval.beams,
    'items': dataset.num_items,
    'search_users_per_sec': search,
    'exhaustive_users_per_sec': exhaustive,
    'ratio': search / exhaustive,
  }
  show(result)
  write({'circumstances': circumstances()} | result)


if __name__ == '__main__':
  app.run(main, flags_parser=config_flag.parse_flags)
