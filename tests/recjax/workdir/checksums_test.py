import zlib

from etils import epath
import pytest

from recjax.workdir import checksums

CHECK = b'123456789'  # its CRC-32C is E3069283 (Rocksoft's catalogue of CRCs, "CRC-32/ISCSI")


def crc32c_bit_by_bit(data):
  """The definition: division by the polynomial 1EDC6F41, reflected."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
  return f'{crc ^ 0xFFFFFFFF:08x}'


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'a/b').mkdir(parents=True)
  (tmp_path / 'check').write_bytes(CHECK)
  (tmp_path / 'a/empty').write_bytes(b'')
  (tmp_path / 'a/b/zeros').write_bytes(bytes(1000))
  (tmp_path / checksums.FILE).write_text('itself')
  return epath.Path(tmp_path)


def test_every_file_except_the_checksum_file_has_a_checksum(folder):
  names = checksums.files_below(folder)
  assert names == ['a/b/zeros', 'a/empty', 'check']
  sums = checksums.checksums(folder, names)
  assert crc32c_bit_by_bit(CHECK) == 'e3069283'
  assert sums == {
    'a/b/zeros': (1000, crc32c_bit_by_bit(bytes(1000))),
    'a/empty': (0, '00000000'),
    'check': (9, 'e3069283'),
  }
  assert sums['check'][1] != f'{zlib.crc32(CHECK):08x}'  # another polynomial
  assert checksums.damage(folder, sums) == []


def test_a_file_of_several_chunks_has_the_checksum_of_its_full_content(folder, monkeypatch):
  whole = checksums.checksums(folder, ['a/b/zeros', 'check'])
  monkeypatch.setattr(checksums, '_CHUNK', 7)
  assert checksums.checksums(folder, ['a/b/zeros', 'check']) == whole


def test_the_damage_of_each_file_is_named(folder):
  sums = checksums.checksums(folder, checksums.files_below(folder))
  (folder / 'a/empty').unlink()
  (folder / 'a/b/zeros').write_bytes(bytes(999))
  (folder / 'check').write_bytes(b'123456788')
  assert checksums.damage(folder, sums) == [
    'a/b/zeros has 999 bytes instead of 1,000',
    'a/empty is missing',
    'check does not have the content that was written: crc32c '
    f'{crc32c_bit_by_bit(b"123456788")} instead of e3069283',
  ]
  (folder / 'check').unlink()
  (folder / 'check').mkdir()
  assert checksums.damage(folder, {'check': sums['check']})[0].startswith('check cannot be read: ')


def test_read_json_rejects_every_flipped_bit_and_truncation(tmp_path):
  path = epath.Path(tmp_path) / 'value.json'
  value = {'files': {'ä': [1, 'ff']}, 'score': None}
  checksums.write_json(path, value)
  assert checksums.read_json(path) == value
  assert [p.name for p in tmp_path.iterdir()] == ['value.json']
  content = path.read_bytes()
  damaged = [content[:cut] for cut in range(len(content))]
  for bit in range(8 * len(content)):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    damaged.append(bytes(flipped))
  for bad in damaged:
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r'value.json does not have the content that was written'):
      checksums.read_json(path)
  path.unlink()
  with pytest.raises(FileNotFoundError):
    checksums.read_json(path)
