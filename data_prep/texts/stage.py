"""The stages `tokenizer` and `texts`: the text side of the vocabulary, and item titles as its ids."""

import functools

from etils import epath

from data_prep import files
from data_prep import stage as stage_lib
from data_prep.sids import refresh
from data_prep.texts import tokenizer
from recjax import config as config_lib
from recjax.data.prepared import Prepared
from recjax.schema.data import Data


def tokenizer_stage(config: config_lib.Config, prepared: Prepared) -> stage_lib.Stage:
  """Copies the tokenizer of a checkpoint, of a file or of an earlier preparation, or trains one."""
  data, pretrained = config.data, config.model.pretrained
  run = functools.partial(tokenizer.write_tokenizer, prepared / files.ITEMS, data, pretrained)
  if pretrained is not None:
    inputs, params = tokenizer.pretrained_files(pretrained), {'prompt_format': data.prompt_format}
  elif data.sentencepiece is not None:
    inputs, params = {tokenizer.MODEL: epath.Path(data.sentencepiece)}, {}
  else:
    inputs, params = stage_lib.outputs(prepared, files.ITEMS), {'text_pieces': data.text_pieces}
    if config.sids.extend is not None:  # the trained model knows the earlier pieces
      inputs = refresh.tokenizer_files(config.sids, prepared.root)
      params = refresh.params(config.sids, 'tokenizer', params)
      run = functools.partial(refresh.copy_tokenizer, config.sids)
  return stage_lib.Stage('tokenizer', run, inputs, params, version=2)


def titles_stage(data: Data, prepared: Prepared) -> stage_lib.Stage:
  """Writes the token ids of item titles."""
  made = stage_lib.read_manifest(prepared / 'tokenizer')['files']
  inputs = stage_lib.outputs(prepared, files.ITEMS, *(f'tokenizer/{name}' for name in sorted(made)))
  run = functools.partial(
    tokenizer.write_titles,
    prepared / files.ITEMS,
    prepared / 'tokenizer',
    data.max_text_tokens,
  )
  return stage_lib.Stage('texts', run, inputs, {'max_text_tokens': data.max_text_tokens})
