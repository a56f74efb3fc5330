"""Exports of untrained models over small prepared data, for tests of their files and of recommend.py."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import sys
import tempfile
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
from recjax.decode.blend import Weights
from recjax.recommend import Recommender, make_ranker
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


_worlds = []  # folders that are removed when the process ends


@functools.cache
def _world(context: tuple[str, ...], collisions: str) -> Config:
  """Prepares the rated world; see `rated`."""
  _worlds.append(tempfile.TemporaryDirectory())
  folder = pathlib.Path(_worlds[-1].name)
  rated_world.write_raw(folder / 'raw', rated_world.rows())
  config = rated_world.config_dict(folder)
  config.data.update(context_events=context, k_core=3 if context else 0)
  config.sids.collisions = collisions
  config.model.update(depth=2, width=16, ff_width=32, heads=2, kv_heads=2, head_width=8)
  config.eval.update(batch_size=8, ks=(10,), beams=24)
  config = config_lib.from_config_dict(config)
  prepare.prepare(config)
  return config


def rated(
  family: str = 'gemma',
  context: tuple[str, ...] = (),
  collisions: str = 'keep',
  **next_item: Any,
) -> tuple[Config, Dataset]:
  """The rated world with a small model, trained from scratch, whose items 0 and 1 share a SID.

  Interactions of the kinds `context` are never targets.
  """
  config = with_(_world(context, collisions), 'model', family=family)
  task = dataclasses.replace(config_lib.next_item_component(config), **next_item)
  mixture = {
    name: task if each.task == 'next_item' else each for name, each in config.mixture.items()
  }
  return dataclasses.replace(config, mixture=mixture), Dataset.load(config.prepared_folder)


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
  """Exports random parameters for transformers, and returns them."""
  params = random_params(config, dataset)
  export.check(str(out), config, dataset)
  export.write(str(out), config, dataset, params)
  return params


def write_histories(path: pathlib.Path, dataset: Dataset, seed: int = 0) -> None:
  """Writes histories of every length from none on, with repeats, times, kinds of interactions and extra keys."""
  rng = np.random.default_rng(seed)
  names = dataset.event_names or ['view']
  with path.open('w') as f:
    for n in range(20):
      items = rng.integers(0, dataset.num_items, n % 11).tolist()
      row = {'user': n, 'history': [dataset.items[i]['id'] for i in items]}
      if n % 3 == 1:
        row['events'] = rng.choice(names, len(items)).tolist()
      if n % 3 == 2:
        row['times'] = np.cumsum(rng.choice([0, 100, 90_000, 9_000_000], len(items))).tolist()
        row['events'] = rng.choice(names, len(items)).tolist()
      f.write(json.dumps(row) + '\n')
    more = {'events': [names[-1], names[0]], 'times': [0, 5.5]}
    f.write(json.dumps({'history': ['gone', dataset.items[1]['id']]} | more) + '\n')


def recommended(
  folder: pathlib.Path,
  config: Config,
  dataset: Dataset,
  params: Any,
  weights: Weights | None = None,
  within: list[str] | None = None,
) -> list[dict[str, Any]]:
  """Returns the lines of recjax itself for the histories of `write_histories`, in h.jsonl of the folder."""
  write_histories(folder / 'h.jsonl', dataset)
  ranker = make_ranker(config, dataset, mesh_lib.make_mesh(config.mesh))
  ranker.weights = weights or ranker.weights
  recommender, k = Recommender(ranker, params, 0), config.eval.beams
  files = (folder / 'h.jsonl', folder / 'ours.jsonl')
  recommender.recommend_file(*files, k, within, skip_unknown=True)
  return list(map(json.loads, (folder / 'ours.jsonl').read_text().splitlines()))


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], atol: float) -> None:
  """Asserts that two files of recommendations have the same items in the same order, and close scores."""
  assert len(ours) == len(theirs) == 21
  for a, b in zip(ours, theirs, strict=True):
    assert a['recommendations']
    scores = [[r.pop('score') for r in row['recommendations']] for row in (a, b)]
    assert a == b
    np.testing.assert_allclose(*scores, atol=atol)


def module(path: pathlib.Path) -> Any:
  """Imports a script of a folder."""
  spec = importlib.util.spec_from_file_location(f'exported_{path.stem}', path)
  made = importlib.util.module_from_spec(spec)
  sys.path.insert(0, str(path.parent))  # as for a script
  try:
    spec.loader.exec_module(made)
  finally:
    sys.path.remove(str(path.parent))
  return made
