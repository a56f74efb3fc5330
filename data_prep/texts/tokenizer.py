"""Writes the text part of the vocabulary: a tokenizer, and item titles as token ids."""

import io
import json
import logging
from typing import Any

from etils import epath
import sentencepiece

from data_prep import files
from data_prep.texts import chat
from recjax.data import text_tokenizer, vocabulary
from recjax.data.sequences import Sequences
from recjax.models.pretrained import hub, read_config, special_ids, text_pieces, tokenizer_files
from recjax.runtime import logs
from recjax.runtime.files import existing
from recjax.schema.data import Data

log = logging.getLogger(__name__)

MODEL = 'spiece.model'
_MAX_TRAINING_CHARACTERS = 2_000  # texts are cut, because the trainer would skip longer ones


def train_model(texts: list[str], num_pieces: int) -> bytes:
  """Trains a unigram model (Kudo, "Subword regularization", ACL 2018) with fallback to bytes.

  Args:
    texts: one sentence each; empty ones are skipped.
    num_pieces: maximum number of pieces, including 256 byte pieces; a small catalogue gives fewer.

  Returns:
    A serialized model with pad 0, eos 1, unk 2, bos 3. Equal arguments give equal bytes.

  Raises:
    ValueError: `num_pieces` is too small for the bytes and the letters of the texts.
  """
  sentences = [text[:_MAX_TRAINING_CHARACTERS] for text in texts if text]
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      # Without texts, the sentence does not matter: byte pieces can encode any text.
      sentence_iterator=iter(logs.progress(sentences or ['item'], 'pieces', unit=' texts')),
      model_writer=model,
      vocab_size=num_pieces,
      hard_vocab_limit=False,
      max_sentence_length=8 * _MAX_TRAINING_CHARACTERS,  # in bytes
      byte_fallback=True,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=3,
      num_threads=1,  # stored in the model, and so part of its bytes
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f'no SentencePiece model of {num_pieces} pieces can be trained on these texts: {error}. '
      'Set --config.data.text_pieces'
    ) from error
  return model.getvalue()


def check_model(path: epath.PathLike) -> None:
  """Checks the file that `data.sentencepiece` names.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no SentencePiece model.
  """
  path = existing(path, '--config.data.sentencepiece', 'file')
  try:
    text_tokenizer.sentencepiece_model(path, plain_text=False)
  except ValueError as error:
    raise ValueError(f'{error}, or set --config.data.sentencepiece') from error


def _tokenizer_file(folder: epath.Path) -> epath.Path:
  file = tokenizer_files.find(folder)
  if file is None:
    raise ValueError(
      f'{folder} must hold one of {", ".join(tokenizer_files.FILES)}; it has none. '
      'Set --config.model.pretrained'
    )
  return file


def pretrained_files(folder: epath.PathLike) -> dict[str, epath.Path]:
  """Returns the files of a checkpoint folder that determine vocabulary and prompts, by name.

  Raises:
    ValueError: the folder holds no tokenizer.
  """
  folder = hub.path(folder)
  tokenizer_file = {file.name: file for file in (_tokenizer_file(folder), folder / 'config.json')}
  return tokenizer_file | special_ids.files(folder) | chat.template_files(folder)


def pretrained_params(folder: epath.PathLike) -> dict[str, int]:
  """Returns the special ids of a checkpoint folder: params of the stage, in addition to the files.

  Raises:
    ValueError: see `special_ids.read`.
  """
  found = read_config(folder)
  special = special_ids.read(hub.path(folder), found.family, found.vocab_rows)
  return {'bos_id': special.bos, 'eos_id': special.eos}


def chat_texts(
  folder: epath.Path, special: special_ids.SpecialIds, prompt_format: str
) -> dict[str, str] | None:
  """Returns the texts around prompt and answer; None: prompts are plain.

  Args:
    folder: a checkpoint folder.
    special: its special ids.
    prompt_format: `data.prompt_format`.

  Raises:
    ValueError: a chat template is needed and there is none, or it cannot be rendered.
  """
  if prompt_format == 'plain':
    return None
  tokens = tokenizer_files.tokens(folder)
  known = {'eos_token': tokens.token_of(special.eos) or ''}
  if special.bos != special.eos:
    known['bos_token'] = tokens.token_of(special.bos) or ''
  around = chat.surrounding_texts(folder, known)
  if around is None and prompt_format == 'chat':
    raise ValueError(
      f"data.prompt_format='chat' must find a chat template in {folder}; it has none. "
      'Set --config.data.prompt_format=plain'
    )
  return around


def check_pretrained(folder: epath.PathLike, prompt_format: str) -> None:
  """Checks that tokenizer, special ids and chat template of a checkpoint folder can be used.

  Raises:
    ValueError: they cannot; see `special_ids.read` and `chat_texts`.
  """
  pretrained_files(folder)
  found = read_config(folder)
  special = special_ids.read(hub.path(folder), found.family, found.vocab_rows)
  chat_texts(hub.path(folder), special, prompt_format)


def write_tokenizer(
  items: epath.Path, data: Data, pretrained: str | None, folder: epath.Path
) -> dict[str, Any]:
  """Writes a tokenizer's file and `vocabulary.json` (see `recjax.data.vocabulary.Pieces`).

  Args:
    items: items.jsonl.
    data: `sentencepiece` names a model to copy; None: train a model of `text_pieces` pieces on the item texts.
    pretrained: a checkpoint folder whose tokenizer is copied instead; None: no checkpoint.
    folder: the output folder.

  Raises:
    ValueError: no tokenizer can be read or trained.
  """
  if pretrained is not None:
    return _copy_pretrained(pretrained, data.prompt_format, folder)
  if data.sentencepiece is None:
    content = train_model([item['text'] for item in files.each_item(items)], data.text_pieces)
    (folder / MODEL).write_bytes(content)
  else:
    check_model(data.sentencepiece)
    epath.Path(data.sentencepiece).copy(folder / MODEL)
  pieces = text_tokenizer.sentencepiece_model(folder / MODEL, plain_text=False)
  # For a tokenizer without BOS, such as T5's, prompts of decoders begin with the padding piece, as in T5.
  bos_id = pieces.bos_id() if pieces.bos_id() >= 0 else max(pieces.pad_id(), 0)
  _write_vocabulary(folder, MODEL, pieces.get_piece_size(), bos_id, pieces.eos_id())
  origin = 'trained' if data.sentencepiece is None else 'copied'
  return {'pieces': pieces.get_piece_size(), 'made': origin}


def _copy_pretrained(pretrained: str, prompt_format: str, folder: epath.Path) -> dict[str, Any]:
  source = hub.path(pretrained)
  file = _tokenizer_file(source)
  found = read_config(source)
  special = special_ids.read(source, found.family, found.vocab_rows)
  size = text_pieces(source, found.vocab_rows)
  file.copy(folder / file.name)
  _write_vocabulary(folder, file.name, size, special.bos, special.eos)
  log.info('tokenizer of %s: BOS %s, EOS %s', source, special.places['bos'], special.places['eos'])
  summary = {'pieces': size, 'made': f'of a checkpoint ({source.name})', 'prompts': 'plain'}
  summary |= special.places
  around = chat_texts(source, special, prompt_format)
  if around is None:
    return summary
  chat.warn_of_date(source)
  pieces = vocabulary.Pieces(folder)
  chat_ids = {name: pieces.encode_template(text) for name, text in around.items()}
  _write_vocabulary(folder, file.name, size, special.bos, special.eos, chat_ids)
  return summary | {'prompts': 'chat'}


def _write_vocabulary(
  folder: epath.Path,
  file: str,
  size: int,
  bos_id: int,
  eos_id: int,
  chat_ids: dict[str, list[int]] | None = None,
) -> None:
  fields = {'file': file, 'size': size, 'bos_id': bos_id, 'eos_id': eos_id}
  if chat_ids is not None:
    fields['chat'] = chat_ids
  (folder / vocabulary.FILE).write_text(json.dumps(fields, indent=2))


def write_titles(
  items: epath.Path, tokenizer: epath.Path, max_tokens: int, folder: epath.Path
) -> dict[str, Any]:
  """Writes the token ids of item titles as flat arrays; for an item without a title, those of its text.

  `item_tokens.npy` is int32, flat; `item_token_offsets.npy` is int64 `[I + 1]`. Titles are cut at `max_tokens` ids
  and have neither BOS nor EOS.
  """
  pieces = vocabulary.Pieces(tokenizer)
  titles = [item.get('title', item['text']) for item in files.each_item(items)]
  uncut = [pieces.encode(title) for title in logs.progress(titles, 'titles', unit=' items')]
  rows = [row[:max_tokens] for row in uncut]
  cut = Sequences.from_lists(rows)
  files.save(folder / 'item_tokens.npy', cut.values)
  files.save(folder / 'item_token_offsets.npy', cut.offsets)
  return {
    'tokens': len(cut.values),
    'mean_tokens': round(len(cut.values) / len(rows), 3),
    'cut_titles': sum(len(row) > max_tokens for row in uncut),
  }
