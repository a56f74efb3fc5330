"""The flags of --mode=serve: what is refused before a model is loaded."""

import importlib.util

from absl import flags
import pytest

from recjax.workdir import serving
from recjax.workdir.serving import Serving


def test_the_defaults_of_the_flags_are_those_of_the_class():
  with pytest.MonkeyPatch.context() as patch:
    for name in serving.FLAGS:
      patch.setattr(flags.FLAGS[name], 'value', flags.FLAGS[name].default)
    assert serving.from_flags() == Serving()
    patch.setattr(flags.FLAGS['beams'], 'value', ['20', ' 50', '20'])
    assert serving.from_flags().beams == (20, 50)
    patch.setattr(flags.FLAGS['beams'], 'value', ['20', 'x'])
    with pytest.raises(ValueError, match=r"^--beams must be numbers, such as 20,50; got 'x'$"):
      serving.from_flags()
    patch.setattr(flags.FLAGS['beams'], 'value', [])
    for text, size in (
      ('1073741824', 2**30), ('500MB', 500_000_000), (' 1.5 gib ', 3 * 2**29), ('2k', 2000), ('7B', 7), ('0', 0),
    ):  # fmt: skip
      patch.setattr(flags.FLAGS['keep_prompts'], 'value', text)
      assert serving.from_flags().keep_prompts == size
    for text in ('', 'MB', '-1', '1e9', '1,000', 'all', '٣', '9' * 500, '1.GB', 'nan'):
      patch.setattr(flags.FLAGS['keep_prompts'], 'value', text)
      with pytest.raises(ValueError, match=r'^--keep_prompts must be a number of bytes, such as'):
        serving.from_flags()


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'port': 65536}, '--port must be from 0 to 65,535; got 65536'),
    ({'beams': (20, 0)}, '--beams must be from 1 to 100,000; got 0'),
    ({'max_wave': -1}, '--max_wave must be from 0 to'),
    ({'max_wait_ms': float('nan')}, '--max_wait_ms must be from 0 to 60,000; got nan'),
    ({'max_queue': 0}, '--max_queue must be from 1 to 1,000,000; got 0'),
    ({'timeout_s': 0.0}, '--timeout_s must be from 0.1 to 3,600; got 0.0'),
    ({'max_body_mb': 0.0}, '--max_body_mb must be from 0.001 to 1,000; got 0.0'),
    ({'room': 0.5}, '--room must be from 1 to 100; got 0.5'),
    ({'keep_prompts': 2**51}, '--keep_prompts must be from 0 to 1,125,899,906,842,624; got'),
  ],
)
def test_a_wrong_value_is_refused(values, message):
  with pytest.raises(ValueError) as caught:
    Serving(**{'port': 0} | values).check()
  assert str(caught.value).startswith(message)


def test_an_address_that_is_taken_or_elsewhere_is_refused():
  with Serving(port=0).bound() as taken:
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=f'got 127.0.0.1 and {port}: .*in use. Set --port'):
      Serving(port=port).check()
  with pytest.raises(OSError, match='--host and --port must be a free address of this machine'):
    Serving(host='203.0.113.7', port=0).check()
  Serving(port=port).bound().close()  # it is free again


def test_a_missing_package_is_named_with_the_command_to_install_it(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name: None if name == 'uvicorn' else find(name)
  )
  with pytest.raises(ValueError, match=r"uvicorn cannot be imported. Run: pip install 'recjax\[serve\]'"):  # fmt: skip
    Serving(port=0).check()
