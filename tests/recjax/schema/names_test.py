import pytest

from recjax.schema.checks import check_choice
from recjax.schema.names import question


@pytest.mark.parametrize(
  ('name', 'known', 'expected'),
  [
    ('gema', ('gemma', 'qwen', 't5'), '; did you mean gemma?'),
    ('Gemma', ('gemma', 'qwen'), '; did you mean gemma?'),
    ('amazon', ('table', 'amazon2018'), '; did you mean amazon2018?'),
    ('gemma3', ('t5', 'gemma3_1b', 'qwen3_4b'), '; did you mean gemma3_1b?'),
    ('colour', ('gemma', 'qwen'), ''),
    ('', ('', 'cpu'), ''),
  ],
)
def test_near_names_are_suggested(name, known, expected):
  assert question(name, known).startswith(expected)
  assert bool(question(name, known)) == bool(expected) or name == ''


def test_an_unknown_choice_names_all_and_the_nearest():
  with pytest.raises(ValueError) as error:
    check_choice('cosin', ('cosine', 'linear'), 'optim.schedule')
  assert str(error.value) == (
    "optim.schedule must be one of cosine, linear; got 'cosin'; did you mean cosine? "
    'Set --config.optim.schedule'
  )
