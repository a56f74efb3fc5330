"""Fields of config.json of a wrong kind are one line that names the field."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recjax.models import pretrained
from tests.goldens import make_decoders


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'hidden_size': '24'}, "hidden_size of .*config.json must be an integer; got '24'"),
    ({'num_attention_heads': 0}, 'num_attention_heads of .* must be positive; got 0'),
    ({'num_hidden_layers': -1}, 'num_hidden_layers of .* must be positive; got -1'),
    ({'vocab_size': 1.5}, 'vocab_size of .* must be an integer'),
    ({'rope_theta': 'x'}, "rope_theta of .* must be a positive number; got 'x'"),
    ({'rms_norm_eps': -1}, 'rms_norm_eps of .* must be a positive number'),
    ({'rope_parameters': [1]}, 'rope_parameters of .* must be an object'),
    ({'rope_parameters': {'rope_type': 'linear'}}, 'factor of the rotary positions .* got None'),
    ({'layer_types': 3}, 'layer_types of .* must be a list'),
    ({'layer_types': [['a']]}, r"full_attention; got \[\['a'\]\]"),
    ({'model_type': ['qwen2']}, 'model_type of .* must be a string'),
    (
      {'num_key_value_heads': 3},
      r'num_attention_heads of config.json \(4\) must be a multiple .* 3',
    ),
    ({'head_dim': 7}, 'head_dim of config.json must be even: positions rotate pairs; got 7'),
    ({'hidden_act': ['silu']}, r"activation of config.json must be one of .*; got \['silu'\]"),
    ({'rope_theta': float('inf')}, 'rope_theta of .* must be a positive number; got inf'),
    ({'rope_parameters': {'rope_theta': float('nan')}}, 'rope_theta of the rotary .*; got nan'),
    ({'tie_word_embeddings': 'false'}, "tie_word_embeddings of .* true or false; got 'false'"),
    ({'text_config': []}, 'text_config of .* must be an object'),
    ({'text_config': {'head_dim': 'x'}}, 'head_dim of .* must be an integer'),
  ],
)
def test_a_field_of_a_wrong_kind_is_named(tmp_path, fields, message):
  shutil.copytree(make_decoders.GOLDENS / 'qwen2', tmp_path / 'f')
  file = tmp_path / 'f' / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))
  with pytest.raises(ValueError, match=message) as error:
    pretrained.read_config(tmp_path / 'f')
  assert '\n' not in str(error.value)


LLAMA3 = make_decoders.LLAMA3


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'rope_parameters': {'rope_type': 'yarn', 'factor': 4.0}},
      'default, linear or llama3, .*yarn',
    ),
    ({'rope_parameters': LLAMA3 | {'factor': None}}, 'factor of the rotary .*; got None'),
    ({'rope_parameters': LLAMA3 | {'factor': '8'}}, "factor of the rotary .*; got '8'"),
    (
      {'rope_parameters': LLAMA3 | {'low_freq_factor': 4.0}},
      'low_.* must be below high_.* got 4.0',
    ),
    ({'mlp_bias': True}, 'mlp_bias of config.json must be off; got True'),
  ],
)
def test_a_llama_that_cannot_be_computed_is_refused(tmp_path, fields, message):
  shutil.copytree(make_decoders.GOLDENS / 'llama3', tmp_path / 'f')
  file = tmp_path / 'f' / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))
  with pytest.raises(ValueError, match=message) as error:
    pretrained.read_config(tmp_path / 'f')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'model_type': 'qwen3_5_moe_text'}, "must be one of .*qwen3_5.*; got 'qwen3_5_moe_text'"),
    ({'model_type': 'qwen3_next'}, "must be one of .*qwen3_5.*; got 'qwen3_next'"),
    (
      {'layer_types': ['full_attention'] * 6},
      'must hold linear_attention and full_attention, one for',
    ),
    ({'layer_types': ['linear_attention', 'full_attention']}, 'one for each of the 6 layers; got '),
    ({'linear_num_value_heads': 3}, r'linear_num_value_heads .*\(3\) must be a multiple of'),
    ({'linear_conv_kernel_dim': 0}, 'linear_conv_kernel_dim of .* must be positive; got 0'),
    ({'hidden_act': 'gelu'}, "hidden_act of config.json must be silu or swish; got 'gelu'"),
    ({'attn_output_gate': False}, 'attn_output_gate of config.json must be True; got False'),
    ({'rope_parameters': {'rope_type': 'yarn', 'factor': 4.0}}, 'default or linear, .*yarn'),
    (
      {'rope_parameters': {'partial_rotary_factor': 0.4}},
      'an even part of the head width 8; got 0.4',
    ),
    ({'rope_parameters': {'partial_rotary_factor': '1'}}, "partial_rotary_factor .*; got '1'"),
    (
      {'rope_parameters': {'partial_rotary_factor': float('inf')}},
      'partial_rotary_factor .* number; got inf',
    ),
  ],
)
def test_a_qwen3_5_that_cannot_be_computed_is_refused(tmp_path, fields, message):
  shutil.copytree(make_decoders.GOLDENS / 'qwen3_5', tmp_path / 'f')
  file = tmp_path / 'f' / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))
  with pytest.raises(ValueError, match=message) as error:
    pretrained.read_config(tmp_path / 'f')
  assert '\n' not in str(error.value)


def test_a_llama_in_the_format_before_transformers_5_is_read_alike(tmp_path):
  shutil.copytree(make_decoders.GOLDENS / 'llama3', tmp_path / 'f')
  file = tmp_path / 'f' / 'config.json'
  expected, hf = pretrained.read_config(tmp_path / 'f').config, json.loads(file.read_text())
  scaling = hf.pop('rope_parameters')
  hf |= {'rope_theta': scaling.pop('rope_theta'), 'rope_scaling': scaling}
  hf['max_position_embeddings'] = scaling.pop('original_max_position_embeddings')
  del hf['head_dim']
  hf['hidden_size'] = hf['num_attention_heads'] * expected.head_width
  file.write_text(json.dumps(hf))
  found = pretrained.read_config(tmp_path / 'f').config
  assert dataclasses.replace(found, width=expected.width) == expected
  assert found.rope_llama3 == (4.0, 1.0, 4.0, 40.0)


def test_an_adapter_without_config_is_named(tmp_path):
  (tmp_path / 'adapter_config.json').write_text('{}')
  with pytest.raises(ValueError, match='it holds an adapter alone'):
    pretrained.read_config(tmp_path)


def _edit_config(folder, **fields):
  hf = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(hf | fields))


def _quantize(folder, name, array):
  tensors = load_file(folder / 'model.safetensors')
  save_file(tensors | {name: array}, folder / 'model.safetensors')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda f: _edit_config(f, quantization_config={'quant_method': 'fp8'}), 'config.json, fp8'),
    (lambda f: _edit_config(f, quantization_config={}, compression_config={'a': 1}), 'compression'),
    (
      lambda f: _quantize(
        f, 'model.layers.0.mlp.up_proj.weight', np.zeros((40, 24), ml_dtypes.float8_e4m3fn)
      ),
      'up_proj.weight of type F8_E4M3',
    ),
    (
      lambda f: _quantize(f, 'model.layers.0.mlp.up_proj.weight', np.zeros((40, 24), np.int8)),
      'up_proj.weight of type I8',
    ),
    (
      lambda f: _quantize(
        f, 'model.layers.0.mlp.up_proj.weight_scale_inv', np.ones((1, 1), np.float32)
      ),
      'tensor model.layers.0.mlp.up_proj.weight_scale_inv',
    ),
    (
      lambda f: _quantize(f, 'model.layers.0.mlp.up_proj.qweight', np.ones((3, 40), np.int32)),
      'tensor model.layers.0.mlp.up_proj.qweight',
    ),
  ],
)
def test_a_quantized_checkpoint_is_named_as_one(tmp_path, damage, message):
  folder = shutil.copytree(make_decoders.GOLDENS / 'qwen2', tmp_path / 'f')
  damage(folder)
  with pytest.raises(ValueError, match=f'holds a quantized checkpoint .*{message}') as error:
    pretrained.check_folder(folder)
  assert '\n' not in str(error.value)
