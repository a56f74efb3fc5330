"""The words that started the program."""

import sys

import pytest

from recjax.runtime.program import program


@pytest.mark.parametrize(
  ('argument', 'words'),
  [
    ('/usr/local/bin/recjax', 'recjax'),
    ('/home/ann/recjax/recjax/main.py', 'python -m recjax.main'),
    ('', 'python -m recjax.main'),
  ],
)
def test_messages_use_the_command_of_the_user(monkeypatch, argument, words):
  monkeypatch.setattr(sys, 'argv', [argument])
  assert program() == words
