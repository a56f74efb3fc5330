"""Weights and tokenizer files that the reading of a folder refuses or warns of."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tokenizers

from recjax.models import pretrained
from recjax.sids.token_space import TokenSpace
from tests.goldens import make_decoders

ROWS, KNOWN = make_decoders.SHAPE['vocab_size'], make_decoders.TOKENIZER_SIZE
SPACE = TokenSpace(KNOWN + 2, (4, 3))


@pytest.fixture
def folder(tmp_path):
  """A folder of Qwen 2 that a test may change, with a tokenizer smaller than the table."""
  path = tmp_path / 'qwen2'
  shutil.copytree(make_decoders.GOLDENS / 'qwen2', path)
  words = ['<pad>', '<|endoftext|>', *(f'w{i}' for i in range(KNOWN - 2))]
  vocab = {word: i for i, word in enumerate(words)}
  model = tokenizers.models.WordLevel(vocab, unk_token='<pad>')
  tokenizers.Tokenizer(model).save(str(path / 'tokenizer.json'))
  (path / 'tokenizer_config.json').write_text('{"eos_token": "<|endoftext|>"}')
  return path


def load(folder):
  shapes = pretrained.abstract(pretrained.read_config(folder), SPACE)[1]
  return pretrained.load(folder, shapes, SPACE)


@pytest.mark.parametrize('name', ['model.norm.weight', 'model.embed_tokens.weight'])
def test_weights_are_finite(folder, name):
  tensors = load_file(folder / 'model.safetensors')
  tensors['model.embed_tokens.weight'][KNOWN:] = np.nan  # rows without a token are not read
  save_file(tensors, folder / 'model.safetensors')
  load(folder)
  tensors[name][0] = np.inf
  save_file(tensors, folder / 'model.safetensors')
  with pytest.raises(ValueError, match=f'must be finite; tensor {name} in .* holds NaN'):
    load(folder)


def test_an_adapter_beside_the_weights_is_warned_of(folder, caplog):
  pretrained.check_folder(folder)
  assert 'adapter' not in caplog.text
  (folder / 'adapter_config.json').write_text('{}')
  pretrained.check_folder(folder)
  assert 'also holds an adapter (adapter_config.json), which is not applied' in caplog.text


@pytest.mark.parametrize(
  ('file', 'content', 'message'),
  [
    ('tokenizer_config.json', {'added_tokens_decoder': [1]}, 'must be an object'),
    ('tokenizer_config.json', {'added_tokens_decoder': {'a': {'content': 'x'}}}, "'x' with 'a'"),
    ('tokenizer_config.json', {'added_tokens_decoder': {'5': {}}}, "None with '5'"),
    ('added_tokens.json', {'<x>': None}, "'<x>' with None"),
    ('recjax.json', {'tokenizer_size': 'x'}, 'tokenizer_size of .* must be an integer'),
  ],
)
def test_a_damaged_file_beside_the_tokenizer_is_named(folder, file, content, message):
  (folder / file).write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message) as error:
    pretrained.check_folder(folder)
    pretrained.text_pieces(folder, ROWS)
  assert file in str(error.value)
