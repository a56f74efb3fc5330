"""Exports of untrained models over small prepared data, for tests of their files and of recommend.py."""

import dataclasses
import json
import pathlib
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np

from configs import demo
from data_prep import prepare
from recjax import config as config_lib
from recjax import models
from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.sharding import mesh as mesh_lib
from recjax.training import state
from recjax.training.start import pretrained_params
from recjax.workdir.export import folder as export
from tests.recjax.data import rated_world
from tests.recjax.pretrained_runs_test import checkpoint

CHAT = (
  "{% for m in messages %}w1 {{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
  '{% if add_generation_prompt %}w2 {% endif %}'
)


def rated(
  folder: pathlib.Path, family: str = 'gemma', context: tuple[str, ...] = (), **next_item: Any
) -> tuple[Config, Dataset]:
  """The rated world with a small model, trained from scratch, whose items 0 and 1 share a SID.

  Interactions of the kinds `context` are never targets.
  """
  rated_world.write_raw(folder / 'raw', rated_world.rows())
  config = rated_world.config_dict(folder, family=family)
  config.data.update(context_events=context, k_core=3 if context else 0)
  config.sids.collisions = 'keep'
  config.mixture.next_item.update(next_item)
  config.model.update(depth=2, width=16, ff_width=32, heads=2, kv_heads=2, head_width=8)
  config.eval.update(batch_size=8, ks=(10,), beams=24)
  config = config_lib.from_config_dict(config)
  prepare.prepare(config)
  return config, Dataset.load(config.prepared_folder)


def pretrained(folder: pathlib.Path, kind: str, chat: bool = False) -> tuple[Config, Dataset]:
  """The tiny demo that starts from a tiny checkpoint."""
  source = checkpoint(folder, kind)
  if chat:
    fields = {'chat_template': CHAT, 'eos_token': '<eos>'}
    (source / 'tokenizer_config.json').write_text(json.dumps(fields))
  config = demo.get_config('tiny')
  config.data.prepared_dir = str(folder / 'data')
  config.model.pretrained = str(source)
  config.model.family = models.pretrained.family_of(source).name
  config.mixture.next_item.prompts = ('w3 w4 unknown: {history}',)
  config.data.prompt_format = 'chat' if chat else 'plain'
  config.packing.row_length = 64
  config.eval.update(batch_size=8, ks=(10,), beams=12)
  config = config_lib.from_config_dict(config)
  prepare.prepare(config)
  return config, Dataset.load(config.prepared_folder)


def with_(config: Config, section: str, **fields: Any) -> Config:
  """The config with other fields in one section."""
  return dataclasses.replace(
    config, **{section: dataclasses.replace(getattr(config, section), **fields)}
  )


def random_params(config: Config, dataset: Dataset, seed: int = 0) -> dict[str, Any]:
  """Parameters with random SID rows of a large scale, so that no two scores are close."""
  space = dataset.vocabulary.space
  if config.model.pretrained is None:
    params = nnx.to_pure_dict(nnx.split(models.build(config.model, space, seed))[1])
  else:
    mesh = mesh_lib.make_mesh(config.mesh)
    shapes = state.abstract_params(config.model, space, mesh)
    params = pretrained_params(config.model, shapes, dataset)
  rng, tables = np.random.default_rng(seed), dict(params['tables'])
  for name in [name for name in tables if name.startswith('sid')]:
    drawn = rng.normal(size=tables[name].shape).astype(np.float32)
    tables[name] = jnp.asarray(drawn)
  return params | {'tables': tables}


def write(out: pathlib.Path, config: Config, dataset: Dataset) -> dict[str, Any]:
  """Exports random parameters, and returns them."""
  params = random_params(config, dataset)
  export.check(str(out), config, dataset)
  export.write(str(out), config, dataset, params)
  return params
