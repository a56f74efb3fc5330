"""SASRec against the equations in numpy; its search and its losses on meshes; a run learns."""

import dataclasses

from etils import epath
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import models, train
from recjax.config import component, from_config_dict, to_config_dict
from recjax.data.dataset import Dataset
from recjax.decode.beam import beam_search
from recjax.decode.trie import Trie
from recjax.evaluate import make_context
from recjax.recommend import make_ranker
from recjax.schema.model import Model
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace
from recjax.training import optim, state
from recjax.training.step import jit_train_step
from recjax.workdir.metrics_file import read_metrics

ITEMS, WIDTH, HEADS = 30, 8, 2
SPACE = TokenSpace(text_size=5, level_sizes=(ITEMS,))
SIZES = {
  'family': 'sasrec',
  'depth': 2,
  'width': WIDTH,
  'ff_width': 6,
  'heads': HEADS,
  'kv_heads': HEADS,
}
MODEL = Model(**SIZES, head_width=4, max_positions=10)


@pytest.fixture(scope='module')
def model():
  built = models.build(MODEL, SPACE, 0)
  rng = np.random.default_rng(0)
  graph, params = nnx.split(built)  # biases and norms are not at their neutral values
  params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), params)
  return nnx.merge(graph, params)


def normed(x_TD, norm, layer=None):
  scale, bias = (np.asarray(p[...], np.float64) for p in (norm.scale, norm.bias))
  if layer is not None:
    scale, bias = scale[layer], bias[layer]
  centred = x_TD - x_TD.mean(1, keepdims=True)
  return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6) * scale + bias


def states(model, tokens):
  """The states of one sequence by the equations of the paper, in float64."""
  wide = lambda x: np.asarray(x[...], np.float64)  # noqa: E731
  table_VD = np.concatenate([wide(model.tables.text)[: SPACE.text_size], wide(model.tables.sid)])
  x_TD = table_VD[tokens] * WIDTH**0.5 + wide(model.positions)[: len(tokens)]
  blocks = model.layers
  for layer in range(MODEL.depth):
    h_TD = normed(x_TD, blocks.attention_norm, layer)
    q, k, v = (
      np.einsum('TD,DNH->NTH', h_TD, wide(getattr(blocks.attention, name).kernel)[layer])
      for name in 'qkv'
    )
    logits = q @ k.swapaxes(1, 2) / 2.0  # sqrt(4)
    logits[:, ~np.tri(len(tokens), dtype=bool)] = -np.inf
    p = np.exp(logits - logits.max(-1, keepdims=True))
    attended = (p / p.sum(-1, keepdims=True)) @ v
    x_TD = x_TD + np.einsum('NTH,NHD->TD', attended, wide(blocks.attention.out.kernel)[layer])
    h_TD = normed(x_TD, blocks.ff_norm, layer)
    up, down = blocks.ff.up, blocks.ff.down
    hidden = np.maximum(h_TD @ wide(up.kernel)[layer] + wide(up.bias)[layer], 0)
    x_TD = x_TD + hidden @ wide(down.kernel)[layer] + wide(down.bias)[layer]
  return normed(x_TD, model.final_norm)


def test_states_equal_the_equations_in_numpy(model):
  tokens = np.random.default_rng(1).integers(0, SPACE.size, 9)
  batch = {
    'tokens': jnp.asarray(tokens)[None],
    'segments': jnp.ones((1, 9), jnp.int32),
    'positions': jnp.arange(9)[None],
  }
  np.testing.assert_allclose(model.hidden(batch)[0], states(model, tokens), atol=1e-5)


def test_the_search_returns_the_top_of_the_full_softmax_without_the_history(model):
  table = SidTable.of_items([f'i{n}' for n in range(ITEMS - 4)], ITEMS)  # four codes are free
  histories = [np.array([7, 2, 19]), np.array([4, 4, 11, 0, 25])]
  tokens_BS = np.zeros((2, 6), np.int32)
  excluded_BE = np.full((2, 5), -1, np.int32)
  for b, history in enumerate(histories):
    tokens_BS[b, 1 : len(history) + 1] = SPACE.sid_start + history
    excluded_BE[b, : len(history)] = history
  prompts = {'tokens': jnp.asarray(tokens_BS), 'lengths': jnp.asarray([4, 6])}
  search = jax.jit(beam_search, static_argnums=(4,))
  graph, params = nnx.split(model)
  items_BM, scores_BM = search(
    nnx.merge(graph, params), Trie.from_table(table), prompts, excluded_BE, 12
  )
  rows_VD = np.asarray(model.tables.sid[...], np.float64)[:ITEMS]
  for b, history in enumerate(histories):
    logits = rows_VD @ states(model, tokens_BS[b, : len(history) + 1])[-1]
    scores = logits - np.log(np.exp(logits).sum())  # over all codes, also the free ones
    scores[[*history, *range(ITEMS - 4, ITEMS)]] = -np.inf
    best = np.argsort(-scores)[:12]
    assert items_BM[b].tolist() == best.tolist()
    np.testing.assert_allclose(scores_BM[b], scores[best], atol=1e-5)


@pytest.fixture(scope='module')
def item_world(tiny_world):
  """The tiny world with one token an item."""
  config, dataset = tiny_world
  fields = to_config_dict(config)
  fields.mixture.next_item = component('next_item', max_items=12, prompts=('{history}',), crop=0.5)
  fields.model.update(
    SIZES | {'width': 16, 'head_width': 8, 'ff_width': 16, 'max_positions': 32, 'dropout': 0.1}
  )
  fields.optim.learning_rate = 1e-2
  fields.num_train_steps, fields.eval_every_steps, fields.checkpoint_every_steps = 40, 40, 40
  ids = [item['id'] for item in dataset.items]
  return from_config_dict(fields), dataclasses.replace(
    dataset, sids=SidTable.of_items(ids, len(ids))
  )


def test_a_run_learns_and_ranks(item_world, tmp_path):
  config, dataset = item_world
  assert isinstance(dataset, Dataset) and dataset.vocabulary.space.level_sizes == (
    dataset.num_items,
  )
  mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  params, _ = train.train(config, epath.Path(tmp_path), make_context(config, dataset, mesh))
  losses = [row['loss'] for row in read_metrics(epath.Path(tmp_path)) if 'loss' in row]
  assert np.mean(losses[-5:]) < np.log(dataset.num_items) - 0.15 < np.mean(losses[:2])
  histories, targets = dataset.histories_and_targets('test')
  items_UM, _ = make_ranker(config, dataset, mesh).rank(params, list(histories))
  assert (items_UM[:, :10] == targets[:, None]).any(1).mean() > 1.5 * 10 / dataset.num_items


def test_a_mesh_of_eight_devices_gives_the_same_losses(item_world):
  config, dataset = item_world
  model = dataclasses.replace(config.model, dropout=0.0)
  config = dataclasses.replace(
    config, model=model, batch_size=16, packing=dataclasses.replace(config.packing, rows=4)
  )
  stream = train.make_stream(config, dataset)
  space, tx = dataset.vocabulary.space, optim.optimizer(config.optim, config.num_train_steps)
  losses = []
  for data, fsdp, tensor in ((1, 1, 1), (2, 2, 2)):
    mesh = mesh_lib.make_mesh(
      Mesh(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor]
    )
    abstract = state.abstract_state(model, space, tx, mesh)
    step = jit_train_step(config, space, tx, False, abstract, mesh)
    now = state.init_state(model, space, tx, mesh, config.seed)
    with jax.set_mesh(mesh):
      for n in range(2):
        batch = stream.host_batch(n * stream.examples_per_batch, 0, 1)
        now, metrics = step(now, mesh_lib.host_rows(batch, mesh))
    losses.append(float(metrics['loss']))
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_too_few_positions_are_refused(item_world, tmp_path):
  config, dataset = item_world
  config = dataclasses.replace(config, model=dataclasses.replace(config.model, max_positions=31))
  mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  with pytest.raises(
    ValueError, match=r'model.max_positions must be at least 32: packing.row_length is 32'
  ):
    train.checked_streams(config, epath.Path(tmp_path), dataset, mesh)
