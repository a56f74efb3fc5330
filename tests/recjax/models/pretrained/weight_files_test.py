"""Finding a folder's safetensors: shards, their index, and folders that hold weights of other forms."""

import json
import os

from etils import epath
import numpy as np
import pytest
from safetensors.numpy import save_file

from recjax.models.pretrained import weight_files
from recjax.models.pretrained.tensors import Tensors

AUTO = 'AutoModelForCausalLM'


def write_shards(folder, weight_map=None):
  ones = {'a': np.ones(3, np.float32), 'both': np.ones(2, np.float32)}
  twos = {'b': np.full(3, 2, np.float32), 'both': np.full(2, 2, np.float32)}
  save_file(ones, folder / '1.safetensors')
  save_file(twos, folder / '2.safetensors')
  names = {'a': '1.safetensors', 'b': '2.safetensors', 'both': '1.safetensors'}
  index = {'weight_map': names if weight_map is None else names | weight_map}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  return epath.Path(folder)


def test_the_index_decides_between_two_files(tmp_path):
  for name, value in (('1.safetensors', 1), ('2.safetensors', 2)):
    tensors = Tensors(write_shards(tmp_path, {'both': name}))
    assert sorted(tensors.infos) == ['a', 'b', 'both']
    np.testing.assert_array_equal(tensors.read('both'), np.full(2, value, np.float32))


def test_links_and_folders_inside_are_followed(tmp_path):
  (tmp_path / 'blobs').mkdir()
  (tmp_path / 'snapshot' / 'part').mkdir(parents=True)
  write_shards(tmp_path / 'blobs')
  folder = tmp_path / 'snapshot'
  os.symlink('../blobs/1.safetensors', folder / '1.safetensors')  # relative, as on the Hub
  os.symlink(tmp_path / 'blobs' / '2.safetensors', folder / 'part' / '2.safetensors')
  weight_map = {'a': '1.safetensors', 'both': '1.safetensors', 'b': 'part/2.safetensors'}
  index = json.dumps({'weight_map': weight_map})
  (folder / 'model.safetensors.index.json').write_text(index)
  assert sorted(Tensors(folder).infos) == ['a', 'b', 'both']


@pytest.mark.parametrize(
  ('weight_map', 'kind', 'message'),
  [
    ({'a': '/etc/x.safetensors'}, ValueError, "inside the folder; got '/etc/x.safetensors'"),
    ({'a': '../1.safetensors'}, ValueError, r"inside the folder; got '\.\./1.safetensors'"),
    ({'a': 'x/../../1.safetensors'}, ValueError, 'inside the folder'),
    ({'a': ''}, ValueError, 'inside the folder'),
    ({'a': 3}, ValueError, "must be a file name; got '3'"),
    ({'a': '3.safetensors'}, FileNotFoundError, 'files that do not exist: 3.safetensors'),
  ],
)
def test_an_index_names_files_of_its_folder(tmp_path, weight_map, kind, message):
  with pytest.raises(kind, match=message):
    weight_files.find(write_shards(tmp_path, weight_map), AUTO)


@pytest.mark.parametrize('content', ['{}', '{"weight_map": {}}', '{"weight_map": []}', '[]', '{"w'])
def test_a_damaged_index_is_named(tmp_path, content):
  folder = write_shards(tmp_path)
  (folder / 'model.safetensors.index.json').write_text(content)
  with pytest.raises(ValueError, match=r'model\.safetensors\.index\.json') as error:
    weight_files.find(folder, AUTO)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (('m.gguf', 'x.bin'), 'it holds GGUF files'),
    (('adapter_config.json', 'adapter_model.bin'), r'an adapter alone \(adapter_model.bin\)'),
    (('adapter_config.json',), 'an adapter alone'),
    (('pytorch_model.bin',), '.bin files, which can run code .*AutoModelForCausalLM'),
    (('consolidated.00.pth',), '.pth files, which can run code'),
  ],
)
def test_other_forms_of_weights_are_named(tmp_path, names, message):
  for name in names:
    (tmp_path / name).write_text('')
  with pytest.raises(ValueError, match=message):
    weight_files.refuse_other_kinds(epath.Path(tmp_path))
  with pytest.raises(ValueError, match=message):
    weight_files.find(epath.Path(tmp_path), AUTO)
