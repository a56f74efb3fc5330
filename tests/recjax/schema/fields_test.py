from recjax.schema.fields import flat


def test_nested_sections_become_dotted_names_in_order():
  sections = {'b': {'y': 1, 'x': {'deep': [1, {'a': 2}]}}, 'a': None, 'empty': {}}
  assert list(flat(sections).items()) == [
    ('b.y', 1),
    ('b.x.deep', [1, {'a': 2}]),
    ('a', None),
  ]
