"""The stages `tokenizer` (the text part of the vocabulary) and `texts` (item titles as token ids)."""

import functools
from typing import Any

from etils import epath

from data_prep import files, refresh
from data_prep import stage as stage_lib
from data_prep.texts import tokenizer
from recjax import config as config_lib
from recjax.data.prepared import Prepared
from recjax.schema.sids import Sids


def check_ready(config: config_lib.Config, root: epath.Path) -> None:
  """Checks the settings of the tokenizer before the first stage runs.

  Raises:
    FileNotFoundError: data.sentencepiece is missing, and `root` holds no tokenizer from such a file.
    ValueError: data.sentencepiece is no SentencePiece model; or model.pretrained has no tokenizer, or a chat
      template that cannot be rendered.
  """
  if config.model.pretrained is not None:
    tokenizer.check_pretrained(config.model.pretrained, config.data.prompt_format)
  elif config.data.sentencepiece is not None:
    manifests = stage_lib.variants(root, 'tokenizer').values()
    if not any(list(manifest['inputs']) == [tokenizer.MODEL] for manifest in manifests):
      tokenizer.check_model(config.data.sentencepiece)


def tokenizer_stage(config: config_lib.Config, prepared: Prepared) -> stage_lib.Stage:
  """Returns the stage that copies a tokenizer (of a checkpoint, a file or an earlier preparation) or trains one."""
  data, pretrained = config.data, config.model.pretrained
  run = functools.partial(tokenizer.write_tokenizer, prepared / files.ITEMS, data, pretrained)
  if pretrained is not None:
    inputs = tokenizer.pretrained_files(pretrained)
    params = {'prompt_format': data.prompt_format} | tokenizer.pretrained_params(pretrained)
  elif data.sentencepiece is not None:
    inputs, params = {tokenizer.MODEL: epath.Path(data.sentencepiece)}, {}
  else:
    inputs, params = stage_lib.outputs(prepared, files.ITEMS), {'text_pieces': data.text_pieces}
    if config.sids.extend is not None:  # the model was trained with the earlier pieces
      inputs = _earlier_files(config.sids, prepared.root)
      params = refresh.params(config.sids, 'tokenizer', params)
      run = functools.partial(_copy_earlier, config.sids)
  return stage_lib.Stage('tokenizer', run, inputs, params, version=2)


def titles_stage(config: config_lib.Config, prepared: Prepared) -> stage_lib.Stage:
  """Returns the stage that writes the token ids of item titles."""
  names = sorted(stage_lib.read_manifest(prepared / 'tokenizer')['files'])
  inputs = stage_lib.outputs(prepared, files.ITEMS, *(f'tokenizer/{name}' for name in names))
  run = functools.partial(
    tokenizer.write_titles,
    prepared / files.ITEMS,
    prepared / 'tokenizer',
    config.data.max_text_tokens,
  )
  params: dict[str, Any] = {'max_text_tokens': config.data.max_text_tokens}
  if config.model.pretrained is not None:
    # Earlier versions encoded the names of control tokens as these tokens.
    params['control_tokens'] = 'plain text'
  return stage_lib.Stage('texts', run, inputs, params)


def _earlier_files(sids: Sids, root: epath.Path) -> dict[str, epath.Path]:
  """The files of the earlier tokenizer, which are the inputs of today's.

  Args:
    sids: `extend` names the earlier preparation.
    root: today's prepared folder. Its manifests name the files if the earlier folder was removed.
  """
  manifest = stage_lib.read_manifest(refresh.earlier(sids) / 'tokenizer')
  if manifest is not None:
    return refresh.inputs(sids, *(f'tokenizer/{name}' for name in sorted(manifest['files'])))
  for today in stage_lib.variants(root, 'tokenizer').values():
    names = [name.removeprefix('extend/') for name in today['inputs'] if name.startswith('extend/')]
    if names:
      return refresh.inputs(sids, *names)
  return {}


def _copy_earlier(sids: Sids, out: epath.Path) -> dict[str, Any]:
  """Copies the earlier tokenizer, because the model was trained with its pieces."""
  folder = refresh.earlier(sids) / 'tokenizer'
  manifest = stage_lib.read_manifest(folder)
  for name in manifest['files']:
    (out / name).write_bytes((folder / name).read_bytes())
  return {**manifest['summary'], 'made': 'as before'}
