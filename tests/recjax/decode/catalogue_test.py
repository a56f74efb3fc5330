"""Catalogues of prepared folders, and what is refused."""

import shutil

import numpy as np
import pytest

from recjax.data.dataset import Dataset
from recjax.data.prepared import Prepared, write_record
from recjax.decode.catalogue import Catalogue
from recjax.sids.table import SidTable
from tests.recjax.decode import tomorrow


@pytest.fixture(scope='module')
def days(tiny_world, tmp_path_factory):
  """The data set of a day and that of the next one."""
  folder = tmp_path_factory.mktemp('days') / 'tuesday'
  return tiny_world[1], tomorrow.prepared(tiny_world[1], folder)


def test_a_catalogue_knows_items_popularity_and_places(days):
  monday, tuesday = Catalogue(days[0]), Catalogue.load(days[1].folder.root)
  assert monday.version != tuesday.version == Catalogue.load(days[1].folder.root).version
  ids = [item['id'] for item in days[1].items]
  assert [ids[i] for i in tuesday.index.values()] == ids
  counts = [int((days[1].train.values == i).sum()) for i in range(len(ids))]
  assert tuesday.popularity_I.tolist() == counts
  old = [item['id'] for item in days[0].items]
  expected = [old.index(item) if item in old else 999 for item in ids]
  assert tuesday.places(monday, 999).tolist() == expected
  monday.check_fits(tuesday)


def test_a_folder_that_is_no_catalogue_is_refused(days, tmp_path):
  with pytest.raises(OSError, match='does not exist'):
    Catalogue.load(tmp_path / 'absent')
  with pytest.raises(ValueError, match=r'must hold a prepared catalogue.*no stage interactions'):
    Catalogue.load(tmp_path)
  root = tmp_path / 'shared'
  shutil.copytree(days[1].folder.root, root)
  shutil.move(root / 'sids', root / 'sids-1')
  stages = {stage: stage for stage in ('interactions', 'tokenizer', 'texts')}
  write_record(root, {'a': {**stages, 'sids': 'sids-1'}})
  assert Catalogue.load(root).version == Catalogue(days[1]).version
  write_record(root, {'a': {**stages, 'sids': 'sids-1'}, 'b': {**stages, 'sids': 'sids-2'}})
  with pytest.raises(ValueError, match='2 experiments share it'):
    Catalogue.load(root)
  named = Catalogue.load(Prepared(root, {**stages, 'sids': 'sids-1'}))
  assert named.dataset.num_items == days[1].num_items


def test_another_token_space_is_refused_in_one_line(days, tmp_path):
  monday, table = Catalogue(days[0]), days[1].sids
  for name, changed, words in (
    ('sizes', {'codes_per_level': tuple(n + 1 for n in table.codes_per_level)}, 'codes of the levels'),
    ('books', {'codebooks': 'other'}, 'code space (quantizer and codebooks)'),
  ):  # fmt: skip
    root = tmp_path / name
    shutil.copytree(days[1].folder.root, root)
    fields = {
      f: getattr(table, f) for f in ('codes_per_level', 'quantizer', 'collisions', 'codebooks')
    }
    SidTable(table.codes_IL, **(fields | changed)).save(root / 'sids')
    with pytest.raises(ValueError) as error:
      monday.check_fits(Catalogue(Dataset.load(root)))
    message = str(error.value)
    assert words in message and str(root) in message and '\n' not in message
    assert '--config.sids.extend' in message


def test_masks_of_a_catalogue_are_read_at_the_start(days, tmp_path):
  ids = [item['id'] for item in days[0].items]
  (tmp_path / 'half.txt').write_text('\n'.join(ids[::2]))
  masks = Catalogue(days[0], tmp_path).masks
  bits = np.unpackbits(masks.mask('half').bits_W.view(np.uint8), bitorder='little')
  assert np.flatnonzero(bits).tolist() == list(range(0, len(ids), 2))
  with pytest.raises(OSError, match='--masks'):
    Catalogue(days[0], tmp_path / 'absent')
  assert Catalogue(days[0]).masks.names == ()
