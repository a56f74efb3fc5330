"""Preparation, from raw files to semantic IDs: which stages there are and what each depends on."""

from collections.abc import Iterator
import functools
import json
import os
from typing import Any

from etils import epath

from data_prep import cooccurrence, encoders, files, interactions, sid_stage, sources, stages, texts
from recjax import config as config_lib
from recjax.data import dataset


def raw_dir(config: config_lib.Config) -> epath.Path:
  """Where raw files lie: `data.raw_dir`, else $RECJAX_DATA/<name>, else data/raw/<name>."""
  if config.data.raw_dir is not None:
    return epath.Path(config.data.raw_dir)
  return epath.Path(os.environ.get('RECJAX_DATA') or 'data/raw') / config.data.name


def prepare(config: config_lib.Config) -> epath.Path:
  """Brings every stage up to date, in order, and prints one line for each.

  Killed anywhere and started again, it gives the same bytes.

  Returns:
    The prepared folder.

  Raises:
    FileNotFoundError: raw files are missing and `data.download` is off.
    ValueError: the raw files or the config do not allow a stage.
  """
  root = dataset.prepared_dir(config)
  source = sources.get(config.data.source)
  # Before the raw files are hashed; the files of a finished preparation may be gone.
  if not stages.is_current(root, _interactions(config)):
    source.fetch(config.data, raw_dir(config))
  for stage in _stages(config, root):
    stages.run_stage(root, stage)
  return root


def is_prepared(config: config_lib.Config) -> bool:
  """Whether `prepare` would have nothing to do; runs nothing."""
  root = dataset.prepared_dir(config)
  return all(stages.is_current(root, stage) for stage in _stages(config, root))


def _stages(config: config_lib.Config, root: epath.Path) -> Iterator[stages.Stage]:
  """The stages in order; one that a config does not need is left out.

  A later one may read what an earlier one wrote, and so it must be current before it is asked for.
  """
  yield _interactions(config)
  yield _tokenizer(config, root)
  yield _texts(config.data, root)
  if config.sids.source != 'cooccurrence':
    yield _text_embeddings(config.sids, root)
  if config.sids.source != 'text':
    yield _cooccurrence_vectors(config.sids, root)
  yield sid_stage.stage(config, root)
  if sources.get(config.data.source).has_optimum:
    yield _optimum(config, root)


def _interactions(config: config_lib.Config) -> stages.Stage:
  source, folder = sources.get(config.data.source), raw_dir(config)

  def run(out: epath.Path) -> dict[str, Any]:
    log = source.load(config.data, folder)
    return interactions.write(interactions.clean(log, config.data.k_core), log.item_records, out)

  return stages.Stage(
    'interactions',
    run,
    inputs=source.input_files(config.data, folder),
    params=source.params(config.data) | {'k_core': config.data.k_core},
  )


def _tokenizer(config: config_lib.Config, root: epath.Path) -> stages.Stage:
  data, pretrained = config.data, config.model.pretrained
  run = functools.partial(texts.write_tokenizer, root / files.ITEMS, data, pretrained)
  if pretrained is not None:
    inputs, params = texts.pretrained_files(pretrained), {'made': 'pretrained'}
  elif data.sentencepiece is not None:
    inputs, params = {texts.MODEL: epath.Path(data.sentencepiece)}, {}
  else:
    inputs, params = stages.outputs(root, files.ITEMS), {'text_pieces': data.text_pieces}
  return stages.Stage('tokenizer', run, inputs, params, version=2)


def _texts(data: config_lib.Data, root: epath.Path) -> stages.Stage:
  made = stages.read_manifest(root / 'tokenizer')['files']
  inputs = stages.outputs(root, files.ITEMS, *(f'tokenizer/{name}' for name in sorted(made)))
  run = functools.partial(
    texts.write_titles, root / files.ITEMS, root / 'tokenizer', data.max_text_tokens
  )
  return stages.Stage('texts', run, inputs, {'max_text_tokens': data.max_text_tokens})


def _text_embeddings(sids: config_lib.Sids, root: epath.Path) -> stages.Stage:
  def run(out: epath.Path) -> dict[str, Any]:
    rows = texts.read_items(root / files.ITEMS)
    return files.save_vectors(encoders.encode([row['text'] for row in rows], sids), out)

  params = {'width': sids.tfidf_width, 'seed': sids.seed} if sids.encoder == 'tfidf' else {}
  return stages.Stage(
    'text_embeddings',
    run,
    stages.outputs(root, files.ITEMS) | _encoder_files(sids, root),
    params | {'kind': 'tfidf' if sids.encoder == 'tfidf' else 'sentence-transformers'},
  )


def _encoder_files(sids: config_lib.Sids, root: epath.Path) -> dict[str, epath.Path]:
  """The encoder's files by their place in its folder, so that it may be moved."""
  try:
    files = encoders.input_files(sids)
  except ValueError:
    # A machine that only trains need not have the encoder: what it made is there and is named.
    manifest = stages.read_manifest(root / 'text_embeddings')
    names = [name for name in (manifest or {}).get('inputs', {}) if name.startswith('encoder/')]
    if not names:
      raise
    return {name: epath.Path(sids.encoder) / name.removeprefix('encoder/') for name in names}
  return {f'encoder/{path.relative_to(files[0].parent).as_posix()}': path for path in files}


def _cooccurrence_vectors(sids: config_lib.Sids, root: epath.Path) -> stages.Stage:
  width, window = sids.cooccurrence_width, sids.cooccurrence_window
  # A number and not the file of items: their texts do not matter here.
  num_items = stages.read_manifest(root / 'interactions')['summary']['items']

  def run(out: epath.Path) -> dict[str, Any]:
    train = files.train_sequences(root)
    return files.save_vectors(cooccurrence.vectors(train, num_items, width, window, sids.seed), out)

  return stages.Stage(
    'cooccurrence_vectors',
    run,
    stages.outputs(root, files.TRAIN_ITEMS, files.TRAIN_OFFSETS),
    {'items': num_items, 'width': width, 'window': window, 'seed': sids.seed},
  )


def _optimum(config: config_lib.Config, root: epath.Path) -> stages.Stage:
  """What the best possible recommender reaches on the held-out items, where the law is known."""
  source, ks = sources.get(config.data.source), config.eval.ks

  def run(out: epath.Path) -> dict[str, Any]:
    train = files.train_sequences(root)
    validation = files.load(root / files.VALIDATION_ITEMS)
    best = {
      'validation': source.optimum(config.data, train, ks),
      'test': source.optimum(config.data, train.append(validation), ks),
    }
    (out / 'optimum.json').write_text(json.dumps(best, indent=2))
    return {name: round(best['test'][name], 4) for name in ('recall@10', 'ndcg@10')}

  inputs = stages.outputs(root, files.TRAIN_ITEMS, files.TRAIN_OFFSETS, files.VALIDATION_ITEMS)
  return stages.Stage('optimum', run, inputs, source.params(config.data) | {'ks': list(ks)})
