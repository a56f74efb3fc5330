"""The teacher: a run of SASRec over the same interactions and items; anything else is refused."""

import dataclasses
import types

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.item_dataset import ItemDataset
from recjax.recommend import make_ranker
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.training import state
from recjax.training.grpo.teacher import Teacher
from recjax.workdir import identity, sasrec


@pytest.fixture
def folder(tiny_world, tmp_path):
  """A workdir with the config of a small SASRec over the tiny world."""
  config, dataset = tiny_world
  data = ItemDataset.load(dataset.folder)
  mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  made = sasrec.config_for(config, data, epath.Path(tmp_path), mesh)
  small = {'depth': 1, 'width': 16, 'ff_width': 16, 'heads': 1, 'kv_heads': 1, 'head_width': 16}
  made = dataclasses.replace(made, model=dataclasses.replace(made.model, **small))
  identity.write_config(made, epath.Path(tmp_path))
  return str(tmp_path)


def test_a_teacher_for_another_catalogue_is_refused(tiny_world, folder, tmp_path):
  config, dataset = tiny_world
  items = [{'id': f'other {n}'} for n in range(dataset.num_items)]
  other = types.SimpleNamespace(items=items, files_digest=dataset.files_digest)
  with pytest.raises(ValueError, match=r'grpo.teacher must be a run .* differs in the items\.'):
    Teacher.of(folder, other)
  digest = lambda stage, *names: str(names)  # noqa: E731
  other = types.SimpleNamespace(items=dataset.items, files_digest=digest)
  with pytest.raises(ValueError, match=r'differs in the interactions\. Set --config.stages'):
    Teacher.of(folder, other)
  with pytest.raises(
    ValueError, match=r'teacher must be a run that was trained; it has no checkpoint'
  ):
    Teacher.of(folder, dataset).check_trained()
  identity.write_config(config, epath.Path(tmp_path))
  with pytest.raises(ValueError, match=r'differs in model.family\.'):
    Teacher.of(folder, dataset)
  with pytest.raises(FileNotFoundError, match='does not exist'):
    Teacher.of(f'{folder}/none', dataset)


@pytest.mark.soak
def test_its_scores_are_those_of_its_own_search(tiny_world, folder):
  _, dataset = tiny_world
  teacher = Teacher.of(folder, dataset)
  mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  space = teacher.dataset.vocabulary.space
  params = state.abstract_params(teacher.config.model, space, mesh)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
  histories = [dataset.train[u][:n] for u, n in ((0, 3), (1, 4))]
  ranker = make_ranker(teacher.config, teacher.dataset, mesh)
  items_UM, scores_UM = ranker.rank(params, histories)
  batch = {'observer_tokens': np.zeros((2, teacher.observer.max_length), np.int32)}
  prompts = [teacher.observer.prompt(history) for history in histories]
  for row, prompt in zip(batch['observer_tokens'], prompts, strict=True):
    row[: len(prompt)] = prompt
  batch['observer_lengths'] = np.array([len(prompt) for prompt in prompts], np.int32)
  choices_UM = dataset.sids.sid_I[items_UM].astype(np.int32)  # every item has its own
  found = jax.jit(teacher.scores(dataset))(params, batch, choices_UM)
  np.testing.assert_allclose(found, scores_UM, rtol=1e-4)
