"""The registry of backbones: published sizes, family names of earlier versions, and a backbone from outside."""

import dataclasses
import json
import shutil
from typing import NamedTuple

from etils import epath
from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax import models
from recjax.evaluate import make_context
from recjax.models import attention, families
from recjax.models.embedding import TokenTables
from recjax.models.family import Family
from recjax.models.layers import Computation, Linear
from recjax.schema.model import Model
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import rules
from recjax.sids.token_space import TokenSpace
from recjax.train import train
from recjax.training import state
from recjax.workdir.metrics_file import read_metrics
from tests.goldens.make_decoders import GOLDENS
from tests.recjax.pretrained_runs_test import checkpoint


@dataclasses.dataclass(frozen=True)
class ToyConfig(Computation):
  width: int


class ToyCache(NamedTuple):
  """Sum of the embeddings so far `[B, M, D]`, and their number `[B, M]`."""

  total: jax.Array
  count: jax.Array

  def choose_beams(self, parents_BM):
    take = jax.vmap(lambda x, parents: x[parents])
    return ToyCache(take(self.total, parents_BM), take(self.count, parents_BM))


class Toy(nnx.Module):
  """Predicts from the mean embedding of the segment so far and the last embedding."""

  def __init__(self, config: ToyConfig, space: TokenSpace, rngs: nnx.Rngs):
    self.tables = TokenTables(space, config.width, rngs)
    self.mixer = Linear('...D,DE->...E', (config.width, config.width), config.width, rngs)

  def _mix(self, mean, last):
    return self.mixer(mean) + last

  def hidden(self, batch, key=None):
    del key
    x_BTD = self.tables.lookup(batch['tokens'], jnp.float32)
    segments, positions = batch['segments'], batch['positions']
    mask_BTS, _ = attention.attention_mask(segments, segments, positions, positions)
    weights_BTS = mask_BTS / jnp.maximum(mask_BTS.sum(axis=-1, keepdims=True), 1)
    return self._mix(jnp.einsum('BTS,BSD->BTD', weights_BTS, x_BTD), x_BTD)

  def start(self, prompts, beams, suffix_length):
    del suffix_length
    tokens_BS, lengths_B = prompts['tokens'], prompts['lengths']
    x_BSD = self.tables.lookup(tokens_BS, jnp.float32)
    real_BS = jnp.arange(tokens_BS.shape[1])[None] < lengths_B[:, None]
    total_BD = jnp.where(real_BS[..., None], x_BSD, 0).sum(axis=1)
    last_BD = jnp.take_along_axis(x_BSD, lengths_B[:, None, None] - 1, axis=1)[:, 0]
    shape = (len(tokens_BS), beams)
    cache = ToyCache(
      jnp.broadcast_to(total_BD[:, None], (*shape, total_BD.shape[-1])),
      jnp.broadcast_to(lengths_B[:, None], shape),
    )
    return self._mix(total_BD / lengths_B[:, None], last_BD), cache

  def step(self, tokens_BM, step, cache):
    del step
    x_BMD = self.tables.lookup(tokens_BM, jnp.float32)
    cache = ToyCache(cache.total + x_BMD, cache.count + 1)
    return self._mix(cache.total / cache.count[..., None], x_BMD), cache


TOY = Family(
  name='toy',
  shape=ToyConfig,
  build=Toy,
  own_shape=lambda model: ToyConfig(width=model.width),
  parameter_rules=((r'mixer/kernel$', (P('fsdp', 'tensor'),)), *rules.PARAMETER_RULES),
)


@pytest.fixture
def toy(monkeypatch):
  monkeypatch.setitem(families.FAMILIES, 'toy', TOY)


def test_a_backbone_from_outside_trains_and_searches(tiny_world, tmp_path, toy):
  config, dataset = tiny_world
  config = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, family='toy', width=32),
    num_train_steps=2,
    eval_every_steps=2,
    checkpoint_every_steps=2,
    mesh=Mesh(data=1, fsdp=2, tensor=1),
  )
  mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:2])
  workdir = epath.Path(tmp_path / 'run')
  context = make_context(config, dataset, mesh)
  params, step = train(config, workdir, context)
  assert step == 2
  assert params['mixer']['kernel'].addressable_shards[0].data.shape == (16, 32)
  assert any('loss' in row for row in read_metrics(workdir))
  histories = [np.asarray(dataset.train[u]) for u in range(3)]
  items_UM, scores_UM = context.ranker.rank(params, histories)
  for history, items in zip(histories, items_UM, strict=True):
    assert not set(history.tolist()) & set(items.tolist())
  assert (np.diff(scores_UM, axis=1) <= 1e-6).all()


def test_a_decoding_step_of_the_toy_equals_its_training_states(toy):
  model = models.build(Model(family='toy', width=8), TokenSpace(20, (4, 4)), 0)
  tokens = jnp.array([[3, 5, 21, 25]])
  segments, positions = jnp.ones_like(tokens), jnp.arange(4)[None]
  batch = {'tokens': tokens, 'segments': segments, 'positions': positions}
  expected = model.hidden(batch)[0]
  x, cache = model.start({'tokens': tokens[:, :2], 'lengths': jnp.array([2])}, 1, 2)
  states = [x[0]]
  for step in range(2):
    x, cache = model.step(tokens[:, 2 + step : 3 + step], step, cache)
    states.append(x[0, 0])
  np.testing.assert_allclose(jnp.stack(states), expected[1:], atol=1e-6)


def test_a_family_that_is_not_registered_is_refused():
  with pytest.raises(
    ValueError,
    match=r"model.family must be one of gemma, llama, qwen, qwen3_5, t5, sasrec, item_decoder; got 'toy'",
  ):
    models.family(Model(family='toy'))


def test_a_size_of_another_family_is_refused():
  assert models.family(Model(family='qwen', size='qwen3_0_6b')).name == 'qwen'
  assert models.family(Model(family='t5', size='flan_t5_base')).is_encoder_decoder
  for family, size in (('t5', 'gemma3_270m'), ('qwen', 'gemma3_270m'), ('gemma', 't5_small')):
    with pytest.raises(ValueError, match=rf'{size} is a model of family .*got {family!r}'):
      models.shape_of(Model(family=family, size=size))
  with pytest.raises(ValueError, match=r'model.size or model.pretrained must be set'):
    models.shape_of(Model(family='qwen'))


def test_every_published_size_belongs_to_one_family():
  names = [name for family in families.FAMILIES.values() for name in family.sizes]
  assert len(names) == len(set(names)) == 48
  for name, size in families.sizes().items():
    family = families.by_size(name)
    assert isinstance(size.shape, family.shape)
    assert size.tokenizer_size <= size.vocab_rows


def test_old_configs_with_family_gemma_for_qwen_are_read(tmp_path):
  folder = tmp_path / 'qwen3'
  shutil.copytree(GOLDENS / 'qwen3', folder)
  for model in (Model(size='qwen3_0_6b'), Model(pretrained=str(folder))):
    saved = dataclasses.asdict(model)
    assert saved['family'] == 'gemma'
    assert models.family(model).name == 'qwen'
    assert models.upgraded(saved) == saved | {'family': 'qwen'}
  moved = saved | {'pretrained': '/gone'}
  assert models.upgraded(moved) == moved
  assert models.upgraded(moved, str(folder)) == moved | {'family': 'qwen'}
  for model in (Model(), Model(family='t5', size='t5_small'), Model(size='gemma3_270m')):
    saved = dataclasses.asdict(model)
    assert models.upgraded(saved) == saved
  hf = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(hf | {'model_type': 'mistral'}))
  with pytest.raises(ValueError, match=r"model_type of .* must be one of gemma, .*got 'mistral'"):
    models.family(Model(pretrained=str(folder)))


def test_qwen_has_the_same_parameters_as_under_family_gemma():
  space = TokenSpace(512, (4, 4))
  mesh = mesh_lib.make_mesh(Mesh(data=-1, fsdp=1, tensor=1))
  trees = [
    state.abstract_params(Model(family=family, size='qwen3_0_6b'), space, mesh)
    for family in ('gemma', 'qwen')
  ]
  assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
  assert jax.tree.all(jax.tree.map(lambda a, b: a == b, *trees))


def test_a_trained_model_of_a_published_size_needs_no_source(tmp_path):
  section = Model(family='t5', size='flan_t5_base')
  assert models.without_source(section, tmp_path) == section
  there = dataclasses.replace(section, pretrained=str(tmp_path))
  assert models.without_source(there, tmp_path) == there
  hub = dataclasses.replace(section, pretrained='hf:google/flan-t5-base')
  assert models.without_source(hub, tmp_path) == hub
  gone = dataclasses.replace(section, pretrained=str(tmp_path / 'gone'))
  assert models.shape_of(models.without_source(gone, tmp_path)) == models.shape_of(section)
  with pytest.raises(
    FileNotFoundError, match=r'gone must exist: its config.json .* --config\.model\.pretrained'
  ):
    models.without_source(dataclasses.replace(gone, size=''), tmp_path)


@pytest.mark.parametrize('kind', ['gemma2', 'gemma3', 'qwen3', 't5_v1_1'])
def test_a_trained_model_has_its_shape_in_the_workdir(tmp_path, kind):
  source = checkpoint(tmp_path, kind)
  section = Model(pretrained=str(source), family=models.pretrained.family_of(source).name)
  shape = models.shape_of(section)
  models.save_shape(section, tmp_path)
  models.save_shape(Model(), tmp_path / 'none')
  source.rename(tmp_path / 'gone')
  found = models.without_source(section, tmp_path)
  assert models.shape_of(found) == shape
  assert models.family(found).name == section.family
  models.check_model(found)
  (tmp_path / models.backbone.SHAPE).write_text('{"family": "gemma"}')
  with pytest.raises(ValueError, match='must hold family and shape of the model; it is damaged'):
    models.shape_of(found)
