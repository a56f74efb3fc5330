"""The limits of weights of scores."""

import pytest

from recjax.schema.blend import Blend, Memory


@pytest.mark.parametrize(
  ('section', 'field'), [(Blend, 'memory'), (Blend, 'text'), (Memory, 'smoothing')]
)
def test_a_value_that_makes_scores_infinite_is_refused(section, field):
  section(**{field: 1e6})
  path = section.prefix + field
  message = rf'^{path} must be in [\[(]0, 1e\+06\]; got 1e\+300. Set --config.{path}$'
  with pytest.raises(ValueError, match=message):
    section(**{field: 1e300})
