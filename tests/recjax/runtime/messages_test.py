"""Which errors are shown as one line."""

import json

import jax
import pytest

from recjax.runtime import messages
from recjax.schema.checks import check


@pytest.mark.parametrize(
  ('function', 'is_ours'),
  [
    (lambda: check(False, 'a must be b', 1, 'a'), True),
    (lambda: json.loads('{'), False),  # a ValueError of a library
    (lambda: {}['a'], False),
  ],
)
def test_errors_of_our_own_checks_are_messages(function, is_ours):
  with pytest.raises(Exception) as caught:
    function()
  assert messages.is_message(caught.value) == is_ours


def test_a_line_has_the_kind_and_the_text():
  assert messages.line(ValueError('no')) == 'ValueError: no'
  assert messages.line(TimeoutError()) == 'TimeoutError'


def test_a_lost_process_is_no_full_disk():
  assert messages.remedy(OSError('No space left')) == 'free or repair the disk'
  error = jax.errors.JaxRuntimeError('UNKNOWN: Gloo AllGather failed')
  assert messages.remedy(error) == 'find the process or device that failed'
