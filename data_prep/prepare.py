"""Preparation, from raw files to semantic IDs: which stages there are and what each depends on."""

from collections.abc import Iterator
import functools
import itertools
import json
import os
from typing import Any

from etils import epath

from data_prep import files, keywords, sources
from data_prep import stage as stage_lib
from data_prep.encoders import stage as encoder_stage
from data_prep.log import interactions, log_writer, splits
from data_prep.relations import cooccurrence
from data_prep.relations import stage as relation_stage
from data_prep.sids import refresh
from data_prep.sids import stage as sid_stage
from data_prep.texts import tokenizer
from recjax import config as config_lib
from recjax.data.dataset import SPLITS
from recjax.data.sequences import Sequences
from recjax.schema.data import Sids


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
  root = config.prepared_folder
  source = sources.get(config.data.source)
  sid_stage.check_ready(config, root, raw_dir(config))
  keywords.check_ready(config, root, raw_dir(config))
  encoder_stage.check_ready(config, root)
  if config.model.pretrained is not None:
    tokenizer.pretrained_files(config.model.pretrained)
  # Before the raw files are hashed; the files of a finished preparation may be gone.
  if not stage_lib.is_current(root, _interactions(config)):
    source.fetch(config.data, raw_dir(config))
  for stage in _stages(config, root):
    stage_lib.run_stage(root, stage)
  encoder_stage.forget_parts(root)
  return root


def is_prepared(config: config_lib.Config) -> bool:
  """Whether `prepare` would have nothing to do; runs nothing."""
  root = config.prepared_folder
  return all(stage_lib.is_current(root, stage) for stage in _stages(config, root))


def _stages(config: config_lib.Config, root: epath.Path) -> Iterator[stage_lib.Stage]:
  """The stages in order; one that a config does not need is left out.

  A later one may read what an earlier one wrote, and so it must be current before it is asked for.
  """
  yield _interactions(config)
  relation_stage.check_room(config, root)
  yield _tokenizer(config, root)
  yield _texts(config, root)
  is_quantized = config.sids.quantizer != 'import'
  if encoder_stage.is_needed(config):
    yield encoder_stage.stage(config, root)
  if is_quantized and config.sids.source != 'text':
    yield _cooccurrence_vectors(config.sids, root)
  if config.needs('collaborative') or config.needs('semantic'):
    yield relation_stage.stage(config, root)
  yield sid_stage.stage(config, root, raw_dir(config))
  if config.needs('keywords'):
    yield keywords.stage(config, root, raw_dir(config))
  # Which items a user has had is part of the law, so a history that is cut hides it.
  if sources.get(config.data.source).has_optimum and not config.data.max_history:
    yield _optimum(config, root)


def _interactions(config: config_lib.Config) -> stage_lib.Stage:
  data, folder = config.data, raw_dir(config)
  source = sources.get(data.source)

  def run(out: epath.Path) -> dict[str, Any]:
    raw = source.load(data, folder)
    records = raw.item_records
    log = interactions.clean(raw, data.k_core, data.duplicates, data.catalogue)
    del raw  # its ids are most of what the stage holds in memory
    arrays = splits.split(log, data.split, data.split_shares, data.max_history)
    return log_writer.write(log, arrays, records, out)

  cut = {'k_core': data.k_core, 'duplicates': data.duplicates, 'catalogue': data.catalogue}
  cut |= {'split': data.split, 'max_history': data.max_history}
  if data.split == 'global_time':
    cut['split_shares'] = data.split_shares
  inputs = source.input_files(data, folder)
  return stage_lib.Stage('interactions', run, inputs, source.params(data) | cut)


def _tokenizer(config: config_lib.Config, root: epath.Path) -> stage_lib.Stage:
  data, pretrained = config.data, config.model.pretrained
  run = functools.partial(tokenizer.write_tokenizer, root / files.ITEMS, data, pretrained)
  if pretrained is not None:
    inputs = tokenizer.pretrained_files(pretrained)
    params = {'prompt_format': data.prompt_format} | tokenizer.pretrained_params(pretrained)
  elif data.sentencepiece is not None:
    inputs, params = {tokenizer.MODEL: epath.Path(data.sentencepiece)}, {}
  else:
    inputs, params = stage_lib.outputs(root, files.ITEMS), {'text_pieces': data.text_pieces}
    if config.sids.extend is not None:  # the model knows the earlier pieces
      inputs = refresh.tokenizer_files(config.sids, root)
      params = refresh.params(config.sids, 'tokenizer', params)
      run = functools.partial(refresh.copy_tokenizer, config.sids)
  return stage_lib.Stage('tokenizer', run, inputs, params, version=2)


def _texts(config: config_lib.Config, root: epath.Path) -> stage_lib.Stage:
  data = config.data
  made = stage_lib.read_manifest(root / 'tokenizer')['files']
  inputs = stage_lib.outputs(root, files.ITEMS, *(f'tokenizer/{name}' for name in sorted(made)))
  run = functools.partial(
    tokenizer.write_titles, root / files.ITEMS, root / 'tokenizer', data.max_text_tokens
  )
  params: dict[str, Any] = {'max_text_tokens': data.max_text_tokens}
  if config.model.pretrained is not None:
    params['control_tokens'] = 'plain text'  # earlier versions encoded their names as these tokens
  return stage_lib.Stage('texts', run, inputs, params)


def _cooccurrence_vectors(sids: Sids, root: epath.Path) -> stage_lib.Stage:
  width, window = sids.cooccurrence_width, sids.cooccurrence_window
  # A number and not the file of items: their texts do not matter here.
  num_items = stage_lib.read_manifest(root / 'interactions')['summary']['items']
  inputs = stage_lib.outputs(root, files.TRAIN_ITEMS, files.TRAIN_OFFSETS)
  params = {'items': num_items, 'width': width, 'window': window, 'seed': sids.seed}
  if sids.extend is not None:
    inputs |= stage_lib.outputs(root, files.ITEMS) | refresh.cooccurrence_inputs(sids)
    params = refresh.params(sids, 'cooccurrence_vectors', params)

  def run(out: epath.Path) -> dict[str, Any]:
    train = files.train_sequences(root)
    if sids.extend is None:
      vectors_ID, basis_ID = cooccurrence.vectors(train, num_items, width, window, sids.seed)
    else:
      vectors_ID, basis_ID = refresh.cooccurrence_vectors(sids, refresh.item_ids(root), train)
    files.save(out / files.BASIS, basis_ID)
    return files.save_vectors(vectors_ID, out)

  return stage_lib.Stage('cooccurrence_vectors', run, inputs, params, version=2)


def _optimum(config: config_lib.Config, root: epath.Path) -> stage_lib.Stage:
  """What the best possible recommender reaches on the held-out items, where the law is known."""
  source, ks = sources.get(config.data.source), config.eval.ks
  names = [files.TRAIN_ITEMS, files.TRAIN_OFFSETS, files.VALIDATION_ITEMS]
  if config.data.split != 'leave_one_out':
    parts = itertools.product(SPLITS, ('items', 'offsets'))
    names = [f'interactions/{split}_history_{part}.npy' for split, part in parts]
  inputs = stage_lib.outputs(root, *names)

  def run(out: epath.Path) -> dict[str, Any]:
    arrays = [files.load(path) for path in inputs.values()]
    known = Sequences(*arrays[:2])
    later = Sequences(*arrays[2:]) if len(arrays) == 4 else known.append(arrays[2])
    best = {
      split: source.optimum(config.data, histories, ks)
      for split, histories in zip(SPLITS, (known, later), strict=True)
    }
    (out / 'optimum.json').write_text(json.dumps(best, indent=2))
    return {name: round(best['test'][name], 4) for name in ('recall@10', 'ndcg@10')}

  return stage_lib.Stage('optimum', run, inputs, source.params(config.data) | {'ks': list(ks)})
