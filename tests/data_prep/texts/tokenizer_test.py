"""The trained SentencePiece model, and titles as token ids."""

import itertools
import json

from etils import epath
import numpy as np
import pytest
import sentencepiece

from data_prep.texts import tokenizer
from recjax import config

TITLES = [f'{color} {thing}' for color in ('red', 'blue', 'green') for thing in ('soap', 'brush')]


def test_small_catalogues_shrink_the_vocabulary():
  model = tokenizer.train_model(TITLES, 4096)
  pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
  assert 260 < pieces.get_piece_size() < 400
  special = (pieces.pad_id(), pieces.eos_id(), pieces.unk_id(), pieces.bos_id())
  assert special == (0, 1, 2, 3)
  assert pieces.decode(pieces.encode('red 肥皂 ß')) == 'red 肥皂 ß'  # by bytes
  assert model == tokenizer.train_model(TITLES, 4096)


def test_a_catalogue_without_texts_has_byte_pieces():
  pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.train_model(['', ''], 300))
  assert pieces.decode(pieces.encode('any word')) == 'any word'


def test_too_few_pieces_are_rejected():
  with pytest.raises(ValueError, match=r'100 pieces.*--config\.data\.text_pieces'):
    tokenizer.train_model(TITLES, 100)


def test_very_long_texts_are_cut_for_training():
  long = 'unusual unusually unusualness ' * 5_000
  pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.train_model([long], 300))
  assert len(pieces.encode('unusual')) < len('unusual')


def data(**fields):
  return config.Data(source='synthetic', name='world', **fields)


def write_items(folder):
  items = [{'id': str(n), 'title': title, 'text': 'x'} for n, title in enumerate(TITLES)]
  items += [{'id': 'a', 'text': 'brush only in text'}, {'id': 'b', 'text': ''}]
  (folder / 'items.jsonl').write_text(''.join(json.dumps(item) + '\n' for item in items))
  return epath.Path(folder / 'items.jsonl')


def test_titles_are_cut_and_stored_as_flat_arrays(tmp_path):
  items = write_items(tmp_path)
  folder = epath.Path(tmp_path)
  assert tokenizer.write_tokenizer(items, data(text_pieces=300), None, folder)['made'] == 'trained'
  summary = tokenizer.write_titles(items, folder, 3, folder)
  pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / tokenizer.MODEL))
  expected = [pieces.encode(t) for t in [*TITLES, 'brush only in text', '']]
  tokens = np.load(tmp_path / 'item_tokens.npy')
  offsets = np.load(tmp_path / 'item_token_offsets.npy')
  assert tokens.dtype == np.int32
  assert offsets.dtype == np.int64
  rows = [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)]
  assert rows == [row[:3] for row in expected]
  assert summary['cut_titles'] == sum(len(row) > 3 for row in expected) > 0


def test_a_given_model_is_copied_and_checked(tmp_path):
  items = write_items(tmp_path)
  given = tmp_path / 'given.model'
  given.write_bytes(tokenizer.train_model(TITLES, 280))
  assert (
    tokenizer.write_tokenizer(items, data(sentencepiece=str(given)), None, epath.Path(tmp_path))[
      'made'
    ]
    == 'copied'
  )
  assert (tmp_path / tokenizer.MODEL).read_bytes() == given.read_bytes()
  given.write_bytes(b'no model')
  with pytest.raises(ValueError, match=r'given\.model must be .*--config\.data\.sentencepiece'):
    tokenizer.write_tokenizer(items, data(sentencepiece=str(given)), None, epath.Path(tmp_path))
