"""The integer space of tokens, and how its SID codes are spelled."""

import numpy as np

from recjax.sids.token_space import TokenSpace, sid_name


def test_names_are_in_the_order_of_ids():
  space = TokenSpace(100, (2, 1, 3))
  assert space.sid_names == ('<a_0>', '<a_1>', '<b_0>', '<c_0>', '<c_1>', '<c_2>')
  codes_IL = np.array([[1, 0, 2], [0, 0, 0]])
  for codes, tokens in zip(codes_IL, space.tokens(codes_IL), strict=True):
    names = [space.sid_names[token - space.sid_start] for token in tokens]
    assert names == [sid_name(level, code) for level, code in enumerate(codes)]
  assert TokenSpace(100, ()).sid_names == ()
