"""Files of `transformers` for a model that was trained from scratch: config.json and the tokenizer."""

import dataclasses
import json
from typing import Any

from etils import epath
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers

from recjax.data import sentencepiece_model
from recjax.models.family import Family
from recjax.models.layers import Computation
from recjax.models.pretrained.config_file import Pretrained

_PAD = '<pad>'


def _comparable(shape: Any) -> Any:
  """Returns a shape without its computation fields and in one spelling, for a comparison."""
  defaults = {field.name: field.default for field in dataclasses.fields(Computation)}
  shape = dataclasses.replace(shape, **defaults)
  if not getattr(shape, 'rope_factors', (1.0,)):
    shape = dataclasses.replace(shape, rope_factors=(1.0,) * shape.depth)
  return shape


def described(family: Family, shape: Any, vocab_rows: int, bos_id: int, eos_id: int) -> Pretrained:
  """Returns the description of a model as if it had been read from a folder.

  Args:
    family: family of the model.
    shape: its shape.
    vocab_rows: number of token ids.
    bos_id: first id of a decoder's prompt.
    eos_id: last id of a text answer.

  Raises:
    ValueError: no config.json describes this shape.
  """
  checkpoints = family.checkpoints
  ids = {'bos_token_id': bos_id, 'eos_token_id': eos_id, 'pad_token_id': 0}
  hf = checkpoints.hf_of(shape) | ids | {'vocab_size': vocab_rows}
  names = {weight.names(0)[0] for weight in checkpoints.mapping(shape).weights}
  read = checkpoints.config_of(checkpoints.text_config(hf), names)
  if _comparable(read) != _comparable(shape):
    raise ValueError(
      f'an export must be a model that transformers knows; no config.json describes {shape}. Train with a '
      'published --config.model.size, or start from --config.model.pretrained'
    )
  return Pretrained(family, shape, vocab_rows, hf)


def _fast_tokenizer(content: bytes) -> tokenizers.Tokenizer:
  """Returns a SentencePiece unigram model as a tokenizer of `tokenizers`, which encodes texts alike."""
  model = sentencepiece_model.ModelProto.FromString(content)
  types = sentencepiece_model.ModelProto.SentencePiece
  if model.trainer_spec.model_type != sentencepiece_model.TrainerSpec.UNIGRAM:
    raise ValueError(
      'the tokenizer of an export must be a unigram model; data.sentencepiece names a model of another '
      'type. Set --config.model.pretrained to a folder with a tokenizer, or train without data.sentencepiece'
    )
  vocab = [(piece.piece, piece.score) for piece in model.pieces]
  has_bytes = model.trainer_spec.byte_fallback
  fast = tokenizers.Tokenizer(
    tokenizers.models.Unigram(vocab, model.trainer_spec.unk_id, byte_fallback=has_bytes)
  )
  spec, steps = model.normalizer_spec, []
  if spec.precompiled_charsmap:
    steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
  if spec.remove_extra_whitespaces:
    steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(' {2,}'), ' ')]
  if steps:
    fast.normalizer = normalizers.Sequence(steps)
  prepend = 'always' if spec.add_dummy_prefix else 'never'
  fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
  space = decoders.Metaspace(prepend_scheme=prepend, split=False)
  fast.decoder = (
    decoders.Sequence([decoders.ByteFallback(), space, decoders.Fuse()]) if has_bytes else space
  )
  special = [piece.piece for piece in model.pieces if piece.type in (types.CONTROL, types.UNKNOWN)]
  fast.add_special_tokens(special)
  fast.add_tokens([piece.piece for piece in model.pieces if piece.type == types.USER_DEFINED])
  return fast


def write_tokenizer(
  model: epath.PathLike, folder: epath.PathLike, bos_id: int, eos_id: int
) -> None:
  """Writes tokenizer.json and tokenizer_config.json for a SentencePiece model.

  Args:
    model: the SentencePiece model, of the type unigram.
    folder: an existing folder.
    bos_id: first id of a decoder's prompt.
    eos_id: last id of a text answer.

  Raises:
    ValueError: the model has another type.
  """
  fast, folder = _fast_tokenizer(epath.Path(model).read_bytes()), epath.Path(folder)
  (folder / 'tokenizer.json').write_text(fast.to_str(pretty=True))
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'bos_token': fast.id_to_token(bos_id),
    'eos_token': fast.id_to_token(eos_id),
    'pad_token': fast.id_to_token(0) or _PAD,
    'clean_up_tokenization_spaces': False,
  }
  (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=2) + '\n')
