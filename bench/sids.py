"""Compares semantic IDs: each quantizer on text vectors, on co-occurrence vectors, on both; and LETTER's table.

Measures for each variant the seconds of its stage (with the quality report), colliding items, used codes,
perplexity, remaining variance, preserved neighbours (of its own vectors and of both), and the purity of its first
codes; with --train also recall@10 of identical short trainings on a fixed sample of users. Finished results in
--scratch are reused.

Command:  python -m bench.sids --config=configs/beauty.py:flat-cpu --config.data.raw_dir=FOLDER --scratch=FOLDER
          [--letter=FOLDER/letter_sids.json] [--train --config.num_train_steps=300 --config.optim.warmup_steps=50]
          python -m bench.sids --parts=scale --scratch=FOLDER [--items=1000000,10000000] [--rqvae]
"""

from collections.abc import Mapping
import json
import shutil
import time
from typing import Any

from absl import app, flags
from etils import epath
import numpy as np

from bench import sids_scale
from bench.circumstances import circumstances, write
from data_prep import files, prepare
from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.data.prepared import Prepared
from recjax.evaluate import make_context
from recjax.metrics import ranking
from recjax.metrics.evaluators.base import sample_rows
from recjax.metrics.evaluators.retrieval import rank_rows
from recjax.runtime.files import write_whole
from recjax.schema import flag as config_flag
from recjax.sharding import mesh as mesh_lib
from recjax.sids import quality
from recjax.train import train
from recjax.workdir import identity, sizes

_CONFIG = config_flag.define(identity.read_config_dict)
_SCRATCH = flags.DEFINE_string(
  'scratch', None, 'Folder of prepared data, workdirs and intermediate results.', required=True
)
_PARTS = flags.DEFINE_list('parts', 'quality', 'quality, or scale: time and memory at --items.')
_ITEMS = flags.DEFINE_list('items', '1000000,10000000', 'With scale: the sizes of catalogues.')
_DISK = flags.DEFINE_float(
  'disk_gb', 8.0, 'With scale: the largest file of vectors; more items repeat its vectors.'
)
_RQVAE = flags.DEFINE_boolean('rqvae', False, 'With scale: train a small RQ-VAE for an epoch too.')
_LETTER = flags.DEFINE_string('letter', None, "LETTER's SID table of the catalogue, JSON.")
_TRAIN = flags.DEFINE_boolean('train', False, 'Train on each variant with the same config.')
_USERS = flags.DEFINE_integer('users', 4000, 'Test users of the sample.')

QUANTIZERS = ('residual_kmeans', 'rqvae')
SOURCES = ('text', 'cooccurrence', 'both')


def _variants() -> dict[str, dict[str, Any]]:
  """Returns the fields of `sids` for each variant by name."""
  variants = {
    f'{quantizer}-{source}': {'quantizer': quantizer, 'source': source}
    for quantizer in QUANTIZERS
    for source in SOURCES
  }
  if _LETTER.value:
    variants['letter'] = {
      'quantizer': 'import',
      'table': _LETTER.value,
      'codes': (256,) * 4,
      'collisions': 'keep',
    }
  return variants


def _config(folder: epath.Path, sids: Mapping[str, Any]) -> config_lib.Config:
  fields = _CONFIG.value.copy_and_resolve_references()
  fields.data.prepared_dir = str(folder)
  fields.sids.update(sids)
  return config_lib.from_config_dict(fields)


def _measure(name: str, sids: Mapping[str, Any], base: Prepared) -> dict[str, Any]:
  """Prepares a variant on top of the shared stages, and returns its quality."""
  folder = base.root.parent / name
  if not folder.exists():
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns('sids'))
  start = time.perf_counter()
  prepared = prepare.prepare(_config(folder, sids))
  seconds = time.perf_counter() - start
  found = json.loads((prepared / 'sids' / quality.FILE).read_text())
  sid_table = Dataset.load(prepared).sids
  names = (files.TEXT_VECTORS, files.COOCCURRENCE_VECTORS)
  both_ID = np.concatenate([files.load(base / name) for name in names], axis=1)
  codes_IQ = sid_table.codes_IL[:, : sid_table.quantized_levels]
  own = found['neighbours_kept']
  return {
    'seconds': round(seconds, 1),
    'colliding': found['colliding_items'],
    'used': [level['used'] for level in found['levels'][: sid_table.quantized_levels]],
    'perplexity': [
      round(level['perplexity']) for level in found['levels'][: sid_table.quantized_levels]
    ],
    'variance_left': found['reconstruction_error'] and found['reconstruction_error'][-1],
    'neighbours': own and own['recall'],
    'neighbours_both': quality.neighbours_kept(codes_IQ, both_ID)['recall'],
    'purity': found['purity'] and found['purity']['purity'],
  }


def _trained(name: str, sids: Mapping[str, Any], scratch: epath.Path) -> dict[str, Any]:
  """Trains on a variant, and evaluates the best checkpoint on a sample of test users."""
  config = _config(scratch / name, sids)
  dataset = Dataset.load(config.prepared)
  mesh = mesh_lib.make_mesh(config.mesh)
  config = sizes.resolved(config, dataset, mesh=mesh)
  context = make_context(config, dataset, mesh)
  start = time.perf_counter()
  params, _ = train(config, scratch / 'runs' / name, context)
  rows = sample_rows(dataset.num_rows('test'), _USERS.value, config.seed)
  ranked = rank_rows(context.ranker, params, dataset, 'test', config.eval.ks, rows)
  metrics = ranking.ranking_metrics(ranked.ranks_U, config.eval.ks)
  return {
    'recall@10': round(metrics['recall@10'], 4),
    'stderr': round(metrics['recall@10_stderr'], 4),
    'train_seconds': round(time.perf_counter() - start, 1),
  }


def _once(path: epath.Path, make) -> dict[str, Any]:
  """Returns the content of a JSON file; if it does not exist, writes the result of `make` first."""
  if not path.exists():
    write_whole(path, json.dumps(make()))
  return json.loads(path.read_text())


def _cell(value: Any) -> str:
  if value is None:
    return '–'
  return '/'.join(map(str, value)) if isinstance(value, list) else f'{value}'


def compare(scratch: epath.Path) -> dict[str, Any]:
  """Measures every variant, prints a table, and returns its rows."""
  base = prepare.prepare(_config(scratch / 'base', {'source': 'both'}))
  results = {}
  for name, sids in _variants().items():
    results[name] = _once(scratch / f'{name}.json', lambda n=name, s=sids: _measure(n, s, base))
    if _TRAIN.value:
      path = scratch / f'{name}-train.json'
      results[name] |= _once(path, lambda n=name, s=sids: _trained(n, s, scratch))
  columns = list(next(iter(results.values())))
  rows = [['', *columns], *([name, *map(_cell, row.values())] for name, row in results.items())]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
  return results


def main(_) -> None:
  scratch, results = epath.Path(_SCRATCH.value), {'circumstances': circumstances()}
  scratch.mkdir(parents=True, exist_ok=True)
  if 'scale' in _PARTS.value:
    sizes_of_catalogues = list(map(int, _ITEMS.value))
    results['scale'] = sids_scale.measure(scratch, sizes_of_catalogues, _DISK.value, _RQVAE.value)
  if 'quality' in _PARTS.value:
    results['variants'] = compare(scratch)
  write(results)


if __name__ == '__main__':
  app.run(main, flags_parser=config_flag.parse_flags)
