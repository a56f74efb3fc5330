"""The baseline `sasrec` of another run: trained and kept in its workdir, or an earlier run in its place."""

import copy
import dataclasses

from etils import epath
import jax
import numpy as np
import pytest

from recjax import evaluate, train
from recjax.baselines import sasrec as recipe
from recjax.data.dataset import SPLITS
from recjax.data.item_dataset import ItemDataset
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import identity, sasrec
from recjax.workdir.checkpoints import Checkpoints

SMALL = {'depth': 1, 'width': 16, 'ff_width': 16, 'heads': 1, 'kv_heads': 1, 'head_width': 16}


def wanting(config, **fields):
  return dataclasses.replace(config, eval=dataclasses.replace(config.eval, **fields))


@pytest.fixture(scope='module')
def mesh():
  return mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])


@pytest.fixture(scope='module')
def trained(tiny_world, mesh, tmp_path_factory):
  """The workdir of a run whose baseline was trained, and the rankings of the baseline."""
  config, dataset = tiny_world
  small = copy.deepcopy(recipe.RECIPE)
  small['model'] |= SMALL
  small['packing']['rows'] = 4
  small |= {'num_epochs': 1.0, 'batch_size': 4}
  workdir = epath.Path(tmp_path_factory.mktemp('run'))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(recipe, 'RECIPE', small)
    wanted = wanting(config, baselines=('sasrec',))
    first = evaluate.trained_baselines(wanted, workdir, dataset, mesh, train.train_stages)
    steps = Checkpoints(sasrec.folder_in(workdir), read_only=True).steps
    again = evaluate.trained_baselines(wanted, workdir, dataset, mesh, train.train_stages)
    assert Checkpoints(sasrec.folder_in(workdir), read_only=True).steps == steps
  for split in SPLITS:
    np.testing.assert_array_equal(first[split]['sasrec'].items_UK, again[split]['sasrec'].items_UK)
  return workdir, first


def test_a_run_without_the_baseline_trains_none(tiny_world, mesh, tmp_path):
  config, dataset = tiny_world
  found = evaluate.trained_baselines(
    config, epath.Path(tmp_path), dataset, mesh, train.train_stages
  )
  assert found == {'validation': {}, 'test': {}} and not list(tmp_path.iterdir())


@pytest.mark.soak
def test_every_row_is_ranked_once_without_its_history(tiny_world, trained):
  config, dataset = tiny_world
  for split in SPLITS:
    histories, targets = dataset.histories_and_targets(split)
    found = trained[1][split]['sasrec']
    assert found.items_UK.shape == (len(targets), max(config.eval.ks))
    for history, items, target, rank in zip(
      histories, found.items_UK, targets, found.ranks_U, strict=True
    ):
      assert not set(history.tolist()) & set(items.tolist())
      assert len(set(items.tolist())) == len(items)
      assert (items == target).any() == (rank < len(items))


def test_its_config_is_the_recipe_with_the_protocol_of_the_run(tiny_world, mesh, tmp_path):
  config, dataset = tiny_world
  data = ItemDataset.load(dataset.folder)
  config = dataclasses.replace(wanting(config, ks=(3, 10), exclude_seen=False), seed=5)
  made = sasrec.config_for(config, data, epath.Path(tmp_path), mesh)
  assert (made.seed, made.eval.ks, made.eval.beams, made.eval.exclude_seen) == (
    5,
    (3, 10),
    10,
    False,
  )
  assert made.data == config.data and made.sids.codes == (dataset.num_items,)
  assert made.model.family == 'sasrec' and made.model.dropout == recipe.RECIPE['model']['dropout']


def test_its_data_depend_on_interactions_and_items_alone(tiny_world):
  dataset = ItemDataset.load(tiny_world[1].folder)
  assert dataset.vocabulary.space.level_sizes == (tiny_world[1].num_items,)
  assert dataset.vocabulary.space.text_size < 100
  own = {dataset.files_digest(stage) for stage in ('sids', 'tokenizer', 'texts')}
  assert own == {dataset.sids.code_space_hash}
  assert dataset.files_digest('interactions') == tiny_world[1].files_digest('interactions')
  with pytest.raises(ValueError, match=r"a prompt of items alone must have no text; got 'then'"):
    dataset.vocabulary.encode('then')


@pytest.mark.soak
def test_an_earlier_run_gives_the_same_ranking(tiny_world, mesh, trained, tmp_path):
  config, dataset = tiny_world
  named = wanting(config, sasrec=str(sasrec.folder_in(trained[0])))
  found = evaluate.trained_baselines(named, epath.Path(tmp_path), dataset, mesh, train.train_stages)
  for split in SPLITS:
    expected = trained[1][split]['sasrec'].items_UK
    np.testing.assert_array_equal(found[split]['sasrec'].items_UK, expected)
  assert not list(tmp_path.iterdir())


@pytest.mark.soak
def test_an_earlier_run_with_another_protocol_is_refused(tiny_world, trained, tmp_path):
  config, dataset = tiny_world
  named = wanting(config, sasrec=str(sasrec.folder_in(trained[0])), exclude_seen=False)
  with pytest.raises(ValueError, match=r'eval.sasrec must be .* differs in eval.exclude_seen\.'):
    sasrec.earlier(named, dataset)
  identity.write_config(config, epath.Path(tmp_path))
  with pytest.raises(ValueError, match=r'eval.sasrec must be .* differs in model.family\.'):
    sasrec.earlier(wanting(config, sasrec=str(tmp_path)), dataset)
  with pytest.raises(FileNotFoundError, match='does not exist'):
    sasrec.earlier(wanting(config, sasrec=str(tmp_path / 'none')), dataset)
