"""The package sentence-transformers as an encoder, installed and not installed."""

import importlib.util
import json

import numpy as np
import pytest
import tokenizers

from data_prep import encoders
from data_prep.encoders import package
from recjax import config
from recjax.sharding import mesh as mesh_lib

needs_package = pytest.mark.skipif(
  importlib.util.find_spec('sentence_transformers') is None, reason='needs sentence-transformers'
)
TEXTS = ['w1 w2 w3', '', 'w4 w4 w9 w8 w7 w6', 'w5']


def test_a_missing_package_is_an_error_with_the_command_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    ValueError, match=r'not installed. Install it .*pip install.*--config\.sids\.encoder'
  ):
    encoders.input_files('sentence_transformers:some/model')


@pytest.fixture
def folder(tmp_path):
  """A DistilBERT with pooling at the first token, which our own code does not support."""
  import torch
  import transformers

  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {'[PAD]': 0, '[UNK]': 1, '[CLS]': 2} | {f'w{i}': i + 3 for i in range(20)}, unk_token='[UNK]'
    )
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A', special_tokens=[('[CLS]', 2)]
  )
  fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token='[PAD]')
  torch.manual_seed(0)
  shape = {'vocab_size': 23, 'dim': 12, 'n_layers': 2, 'n_heads': 2, 'hidden_dim': 20}
  model = transformers.DistilBertModel(transformers.DistilBertConfig(**shape))
  model.save_pretrained(tmp_path)
  fast.save_pretrained(tmp_path)
  (tmp_path / '1_Pooling').mkdir()
  pooling = {'embedding_dimension': 12, 'pooling_mode': 'cls', 'include_prompt': True}
  (tmp_path / '1_Pooling/config.json').write_text(json.dumps(pooling))
  module = 'sentence_transformers.models'
  modules = [
    {'idx': 0, 'name': '0', 'path': '', 'type': f'{module}.Transformer'},
    {'idx': 1, 'name': '1', 'path': '1_Pooling', 'type': f'{module}.Pooling'},
  ]
  (tmp_path / 'modules.json').write_text(json.dumps(modules))
  return tmp_path, model.eval(), tokenizer


def encode(folder, **fields):
  sids = config.Sids(encoder=f'{package.PREFIX}{folder}', **fields)
  return encoders.encode(TEXTS, sids, mesh_lib.make_mesh(config.Mesh()))


@needs_package
@pytest.mark.filterwarnings('default')  # those of the package are not ours
def test_vectors_equal_those_of_the_packages_model(folder, monkeypatch):
  import torch

  path, model, tokenizer = folder
  monkeypatch.setattr(package, '_TEXTS_PER_BATCH', 3)
  expected = []
  for text in TEXTS:
    with torch.no_grad():
      states = model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state
    first = states[0, 0].double().numpy()
    expected.append(first / np.linalg.norm(first))
  got = encode(path)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, expected, atol=1e-5)
  assert np.abs(encode(path, encoder_max_tokens=2)[0] - expected[0]).max() > 1e-3
  half = encode(path, encoder_dtype='bfloat16')
  assert half.dtype == np.float32 and 0.98 < (half * got).sum(axis=1).min() < 1 - 1e-6


@needs_package
@pytest.mark.filterwarnings('default')
def test_all_visible_files_of_the_folder_are_inputs(folder):
  path, *_ = folder
  (path / '.cache').mkdir()
  (path / '.cache' / 'x').write_text('x')
  found = encoders.input_files(f'{package.PREFIX}{path}')
  assert {'model.safetensors', 'modules.json', '1_Pooling/config.json'} <= found.keys()
  assert not any('.cache' in name for name in found)


@needs_package
@pytest.mark.filterwarnings('default')
def test_a_model_that_is_not_on_this_machine_is_not_downloaded(tmp_path, monkeypatch):
  import huggingface_hub

  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
  with pytest.raises(
    ValueError,
    match=r'that was downloaded to this machine.*hf download sentence-transformers/all-x',
  ):
    encoders.input_files('sentence_transformers:all-x')
