"""The `sids` stage on given vectors; prepare_test runs it after the other stages."""

import json
import re

from etils import epath
import numpy as np
import pytest

from data_prep import files, prepare
from data_prep.sids import stage as sid_stage
from recjax import config as config_lib
from recjax.sids.quantizers.saved import Quantizer
from recjax.sids.table import SidTable
from tests.shared_data import SHARED, needs_shared

ITEMS = 60
RQVAE = {'hidden': (8,), 'latent': 4, 'autoencoder_epochs': 2, 'epochs': 3, 'batch_size': 16}


def _write_vectors(root, items=ITEMS):
  rng = np.random.default_rng(0)
  for name, width in ((files.TEXT_VECTORS, 6), (files.COOCCURRENCE_VECTORS, 4)):
    (root / name).parent.mkdir(parents=True)
    np.save(root / name, rng.normal(size=(items, width)).astype(np.float32))
  (root / files.ITEMS).parent.mkdir()
  rows = [
    {'id': f'i{n}', 'text': '', 'categories': [['All', f'part {n % 3}'], ['All', 'else']]}
    for n in range(items)
  ]
  (root / files.ITEMS).write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture
def root(tmp_path):
  _write_vectors(tmp_path)
  return epath.Path(tmp_path)


def _config(rqvae=None, **sids):
  config = config_lib.defaults(source='amazon2014', name='x')
  config.sids.update({'codes': (4, 8)} | sids)
  config.sids.rqvae.update(RQVAE | (rqvae or {}))
  return config_lib.from_config_dict(config)


def _run(config, root, out='sids'):
  stage = sid_stage.stage(config, root, root)
  (root / out).mkdir()
  summary = stage.run(root / out)
  return stage, SidTable.load(root / out), Quantizer.load(root / out), summary


@pytest.mark.parametrize('quantizer', ['residual_kmeans', 'rqvae'])
@pytest.mark.parametrize('collisions', ['deduplicate', 'sinkhorn', 'keep'])
def test_sids_equal_the_assignments_of_the_saved_quantizer(root, quantizer, collisions):
  config = _config(quantizer=quantizer, collisions=collisions, source='both', codes=(2, 3, 30))
  _, table, saved, summary = _run(config, root)
  names = (files.TEXT_VECTORS, files.COOCCURRENCE_VECTORS)
  vectors = np.concatenate([np.load(root / name) for name in names], axis=1)
  codes = saved.assign(vectors)
  assert (table.quantizer, table.collisions) == (quantizer, collisions)
  assert table.codebooks == saved.fingerprint
  assert table.codes_per_level[:3] == (2, 3, 30)
  same_prefix = table.codes_IL[:, :2] == codes[:, :2]
  assert same_prefix.all()
  if collisions == 'sinkhorn':
    moved = (table.codes_IL[:, 2] != codes[:, 2]).sum()
    assert moved == summary['reassigned_items'] > 0
  else:
    np.testing.assert_array_equal(table.codes_IL[:, :3], codes)
  distinct = len(np.unique(codes, axis=0))
  assert distinct < ITEMS
  assert len(np.unique(table.codes_IL, axis=0)) == (distinct if collisions == 'keep' else ITEMS)

  quality = json.loads((root / 'sids' / 'quality.json').read_text())
  assert quality['levels'][0]['codes'] == 2 and len(quality['reconstruction_error']) == 3
  assert quality['purity']['category_level'] == 2 and quality['purity']['categories'] == 3
  assert summary['neighbours_kept'] == quality['neighbours_kept']['recall']
  assert summary['variance_left'] == quality['reconstruction_error'][-1]
  assert summary['purity'] == quality['purity']['purity']


def test_items_with_nearly_equal_vectors_are_told_in_numbers(root, caplog):
  _run(_config(collisions='keep', source='text', codes=(8, 16)), root)
  assert not caplog.messages
  np.save(root / files.TEXT_VECTORS, np.repeat(np.load(root / files.TEXT_VECTORS)[:5], 12, axis=0))
  _run(_config(collisions='deduplicate', source='text', codes=(8, 16)), root, 'equal')
  [message] = caplog.messages
  assert re.search(
    r'the 60 items get only 5 distinct semantic IDs before .*have 1 distinct texts: .*sids.source to '
    r'cooccurrence or both',
    message,
  )


def test_rqvae_options_change_only_the_params_of_an_rqvae(root):
  def params(**fields):
    return sid_stage.stage(_config(**fields), root, root).params

  assert params(quantizer='rqvae') != params(quantizer='rqvae', rqvae={'epochs': 4})
  assert params() == params(rqvae={'epochs': 4})
  assert params() != params(collisions='sinkhorn')


def test_the_contrastive_loss_reads_five_neighbours_per_item(root):
  plain = _config(quantizer='rqvae', rqvae={'contrastive_weight': 0.0})
  stage, _, without, _ = _run(plain, root, 'plain')
  assert not set(files.COLLABORATIVE) & set(stage.inputs)
  rng = np.random.default_rng(1)
  lists = [rng.permutation(ITEMS)[: n % 8].astype(np.int32) for n in range(ITEMS)]
  (root / 'relations').mkdir()
  values, offsets = files.COLLABORATIVE
  np.save(root / values, np.concatenate(lists))
  np.save(root / offsets, np.cumsum([0, *map(len, lists)]))
  config = _config(quantizer='rqvae', rqvae={'contrastive_weight': 0.5})
  stage, _, quantizer, _ = _run(config, root, 'contrastive')
  assert set(files.COLLABORATIVE) <= set(stage.inputs)
  assert quantizer.fingerprint != without.fingerprint
  pairs = sid_stage._pairs({name: root / name for name in files.COLLABORATIVE})
  want = [[n, other] for n, row in enumerate(lists) for other in row[:5].tolist()]
  assert pairs.dtype == np.int32 and pairs.tolist() == want


def test_more_items_than_codes_under_a_prefix_are_rejected(root):
  with pytest.raises(
    ValueError,
    match=r'at most 4 items, the number of codes of the last level.*--config\.sids\.codes',
  ):
    _run(_config(codes=(4, 4), collisions='sinkhorn'), root)


@pytest.mark.soak
@needs_shared('amazon2014/beauty')
@pytest.mark.parametrize('source', ['text', 'cooccurrence', 'both'])
def test_an_rqvae_of_beauty_uses_its_codes_and_collides_less(tmp_path, source):
  raw = str(SHARED / 'amazon2014' / 'beauty')
  found = {}
  for quantizer in ('residual_kmeans', 'rqvae'):
    config = config_lib.defaults(source='amazon2014', name='beauty')
    config.data.update(category='Beauty', raw_dir=raw, prepared_dir=str(tmp_path))
    config.sids.update(encoder='tfidf', source=source, quantizer=quantizer)
    prepared = prepare.prepare(config_lib.from_config_dict(config))  # the second is a variant
    found[quantizer] = SidTable.load(prepared / 'sids').statistics()
  assert all(level['used'] >= 0.95 * 256 for level in found['rqvae']['levels'][:3])
  assert found['rqvae']['colliding_items'] < found['residual_kmeans']['colliding_items']
