"""The header of a safetensors file is checked against the bytes that follow it."""

import json
import struct

from etils import epath
import numpy as np
import pytest

from recjax.models.pretrained.tensors import Tensors


def write(folder, header, size=12):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  content = struct.pack('<Q', len(text)) + text + np.arange(size, dtype=np.uint8).tobytes()
  (folder / 'model.safetensors').write_bytes(content)
  return epath.Path(folder)


def entry(**fields):
  return {'a': {'dtype': 'F32', 'shape': [3], 'data_offsets': [0, 12]} | fields}


def test_a_whole_file_is_read(tmp_path):
  tensors = Tensors(write(tmp_path, entry() | {'__metadata__': {'format': 'pt'}}))
  np.testing.assert_array_equal(
    tensors.read('a'), np.frombuffer(np.arange(12, dtype=np.uint8).tobytes(), np.float32)
  )


@pytest.mark.parametrize(
  'header',
  [
    entry(shape=[2]),
    entry(shape=[-3]),
    entry(data_offsets=[4, 12]),
    entry(data_offsets=['0', '12']),
    entry(data_offsets=[0]),
    entry(shape=None),
    {'a': {'dtype': 'F32'}},
    {'a': 'b'},
    [1],
    b'\xff\xfe',
  ],
)
def test_a_damaged_header_is_one_line(tmp_path, header):
  with pytest.raises(ValueError, match=r'model\.safetensors must be a safetensors file') as error:
    Tensors(write(tmp_path, header))
  assert '\n' not in str(error.value)


def test_a_file_of_another_length_is_truncated(tmp_path):
  with pytest.raises(ValueError, match=r'model\.safetensors is truncated or damaged'):
    Tensors(write(tmp_path, entry(), size=11))
  (tmp_path / 'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\n')
  with pytest.raises(ValueError, match='truncated or damaged: its header asks for more'):
    Tensors(tmp_path)
