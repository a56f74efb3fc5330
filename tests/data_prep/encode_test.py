"""Shares of an encoding that real processes make, against the encoding of one."""

import subprocess
import sys

import pytest

from configs import demo
from data_prep import encode, prepare
from data_prep.encoders import batching
from recjax import config as config_lib
from tests.data_prep.encoders.stage_test import checkpoint  # noqa: F401
from tests.folders import ROOT, contents


def _config(folder, encoder, **sids):
  config = demo.get_config('tiny')
  config.data.prepared_dir = str(folder)
  config.sids.update(encoder=str(encoder), source='text', **sids)
  return config_lib.from_config_dict(config)


_PROCESS = """
import sys
from data_prep import encode
from data_prep.encoders import batching
from tests.data_prep import encode_test
batching._TOKENS['cpu'] = 16
encode.run(encode_test._config(*sys.argv[1:3]), int(sys.argv[3]), 2)
"""


@pytest.mark.soak
def test_two_processes_encode_the_bytes_of_one(tmp_path, checkpoint, monkeypatch):  # noqa: F811
  monkeypatch.setitem(batching._TOKENS, 'cpu', 16)
  one = prepare.prepare(_config(tmp_path / 'one', checkpoint))
  command = [sys.executable, '-c', _PROCESS, str(tmp_path / 'two'), str(checkpoint)]
  running = [subprocess.Popen([*command, str(process)], cwd=ROOT) for process in range(2)]
  assert [process.wait(timeout=600) for process in running] == [0, 0]
  parts = list((tmp_path / 'two').glob('.text_embeddings.parts/*/*.f32'))
  assert len(parts) > 1
  two = prepare.prepare(_config(tmp_path / 'two', checkpoint))
  assert contents(two.root / 'text_embeddings') == contents(one.root / 'text_embeddings')
  assert not (tmp_path / 'two' / '.text_embeddings.parts').exists()


@pytest.mark.parametrize(
  ('process', 'processes', 'encoder', 'must'),
  [
    (2, 2, 'minilm', r'--process must be at least 0 and below --processes=2; got 2'),
    (-1, 1, 'minilm', 'got -1'),
  ],
)
def test_a_process_beyond_the_number_is_refused(tmp_path, process, processes, encoder, must):
  with pytest.raises(ValueError, match=must):
    encode.run(_config(tmp_path, encoder), process, processes)
