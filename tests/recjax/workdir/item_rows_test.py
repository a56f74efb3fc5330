"""Rows of items are found by item id: kept, new and removed items; models with and without rows."""

import logging
import types

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.schema.model import Model
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import item_rows
from recjax.workdir.checkpoints import Checkpoints, Meta

WIDTH = 4
WITH = {'family': 'gemma', 'item_head': True}
WITHOUT = {'family': 'gemma'}  # as of an earlier version


def dataset(ids):
  return types.SimpleNamespace(items=[{'id': item} for item in ids])


def abstract(rows, mesh):
  sharding = mesh_lib.replicated(mesh)
  sizes = {'sid': 512} | ({'items': rows} if rows else {})
  shapes = {
    n: jax.ShapeDtypeStruct((r, WIDTH), jnp.float32, sharding=sharding) for n, r in sizes.items()
  }
  return {'tables': shapes}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Checkpoints of two runs, by whether the model has rows of items; row i of item i holds the number i + 1."""
  mesh, found = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1]), {}
  for has, section in ((True, Model(item_head=True)), (False, Model())):
    workdir = epath.Path(tmp_path_factory.mktemp('run'))
    tables = {'sid': jnp.ones((512, WIDTH))}
    if has:
      tables['items'] = jnp.broadcast_to(jnp.arange(512.0)[:, None] + 1, (512, WIDTH))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(1, {'params': {'tables': tables}}, Meta(0, {}, '', [], {}), None)
    item_rows.write(workdir, section, dataset(['a', 'b', 'c']))
    assert (workdir / item_rows.FILE).exists() == has
    found[has] = checkpoints
  return found, mesh


def test_another_catalogue_finds_its_rows_by_item_id(saved, caplog):
  checkpoints, mesh = saved
  caplog.set_level(logging.INFO)
  read = lambda ids: item_rows.restored(  # noqa: E731
    checkpoints[True], 1, abstract(1024, mesh), WITH, dataset(ids)
  )['tables']
  tables = read(['c', 'new', 'a'])
  assert tables['items'].shape == (1024, WIDTH)
  np.testing.assert_array_equal(tables['items'][:4, 0], [3, 0, 1, 0])
  np.testing.assert_array_equal(tables['sid'], np.ones((512, WIDTH)))
  [line] = [r.getMessage() for r in caplog.records if r.getMessage().startswith('rows of items')]
  assert '2 of 3 items keep theirs by item id, 1 are new' in line
  assert '1 rows of items that are not in the catalogue are dropped' in line


def test_the_same_catalogue_keeps_every_row_and_models_may_gain_or_lose_them(saved):
  checkpoints, mesh = saved
  same = item_rows.restored(
    checkpoints[True], 1, abstract(512, mesh), WITH, dataset(['a', 'b', 'c'])
  )
  np.testing.assert_array_equal(same['tables']['items'][:, 0], np.arange(512) + 1)
  gained = item_rows.restored(checkpoints[False], 1, abstract(512, mesh), WITHOUT, dataset(['a']))
  assert not gained['tables']['items'].any()
  lost = item_rows.restored(checkpoints[True], 1, abstract(0, mesh), WITH, dataset(['a']))
  assert set(lost['tables']) == {'sid'}
  plain = item_rows.restored(checkpoints[False], 1, abstract(0, mesh), WITHOUT, dataset(['a']))
  assert set(plain['tables']) == {'sid'}


def test_missing_ids_are_refused_by_the_name_of_the_file(saved):
  checkpoints, mesh = saved
  file = checkpoints[True].folder.parent / item_rows.FILE
  text = file.read_text()
  file.write_text('[')
  with pytest.raises(ValueError, match=r'item_rows.json must hold the item ids of the rows'):
    item_rows.restored(checkpoints[True], 1, abstract(512, mesh), WITH, dataset(['a']))
  file.write_text(text)
