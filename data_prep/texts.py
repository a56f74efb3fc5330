"""The text side of the vocabulary: a SentencePiece model, and item titles as its ids."""

import io
import json
from typing import Any

from etils import epath
import numpy as np
import sentencepiece
import tqdm

MODEL = 'spiece.model'
_MAX_TRAINING_CHARACTERS = 2_000  # of one text; longer ones would be skipped whole


def read_items(path: epath.PathLike) -> list[dict[str, Any]]:
  """The objects of an items.jsonl, in item order."""
  return [json.loads(line) for line in epath.Path(path).read_text().splitlines()]


def train_model(texts: list[str], num_pieces: int) -> bytes:
  """Trains a unigram model (Kudo, "Subword regularization", ACL 2018) with fallback to bytes.

  Args:
    texts: a sentence each; empty ones are skipped.
    num_pieces: at most so many pieces, 256 byte pieces included; a small catalogue gives fewer.

  Returns:
    A serialised model with pad 0, eos 1, unk 2, bos 3. Equal arguments give equal bytes.

  Raises:
    ValueError: the pieces asked for do not even hold the bytes and the letters of the texts.
  """
  sentences = [text[:_MAX_TRAINING_CHARACTERS] for text in texts if text]
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      # Any sentence will do where there are no texts: the byte pieces can spell everything.
      sentence_iterator=iter(tqdm.tqdm(sentences or ['item'], 'pieces', unit=' texts')),
      model_writer=model,
      vocab_size=num_pieces,
      hard_vocab_limit=False,
      max_sentence_length=8 * _MAX_TRAINING_CHARACTERS,  # in bytes
      byte_fallback=True,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=3,
      num_threads=1,  # is written into the model
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f'no SentencePiece model of {num_pieces} pieces can be trained on these texts: {error}. '
      'Set --config.data.text_pieces'
    ) from error
  return model.getvalue()


def write_tokenizer(
  items: epath.Path, model: epath.PathLike | None, num_pieces: int, folder: epath.Path
) -> dict[str, Any]:
  """Writes `spiece.model`: a copy of `model`, or one trained on the texts of `items`.

  Raises:
    ValueError: `model` is no SentencePiece model, or `train_model` cannot train one.
  """
  if model is None:
    content = train_model([item['text'] for item in read_items(items)], num_pieces)
  else:
    content = epath.Path(model).read_bytes()
  try:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
  except RuntimeError as error:
    raise ValueError(
      f'{model} must be a SentencePiece model: {error}. Set --config.data.sentencepiece'
    ) from error
  (folder / MODEL).write_bytes(content)
  return {'pieces': pieces.get_piece_size(), 'made': 'trained' if model is None else 'copied'}


def write_titles(
  items: epath.Path, model: epath.Path, max_tokens: int, folder: epath.Path
) -> dict[str, Any]:
  """Writes the ids of item titles as flat arrays, an untitled item's text in its title's place.

  `item_tokens.npy` is int32 flat, `item_token_offsets.npy` int64 `[I + 1]`; each title is cut at
  `max_tokens` ids and has neither BOS nor EOS.
  """
  pieces = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
  titles = [item.get('title', item['text']) for item in read_items(items)]
  whole = [pieces.encode(title) for title in tqdm.tqdm(titles, 'titles', unit=' items')]
  rows = [row[:max_tokens] for row in whole]
  offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
  tokens = np.fromiter((token for row in rows for token in row), np.int32, int(offsets[-1]))
  for name, array in (('item_tokens', tokens), ('item_token_offsets', offsets)):
    with (folder / f'{name}.npy').open('wb') as f:
      np.save(f, array)
  return {
    'tokens': len(tokens),
    'mean_tokens': round(len(tokens) / len(rows), 3),
    'cut_titles': sum(len(row) > max_tokens for row in whole),
  }
