"""Numbers of beams by level."""

from recjax.decode.trie import Trie

Beams = int | tuple[int, ...]  # beams after every level, or after each of them


def widths_of(trie: Trie, beams: Beams) -> tuple[int, ...]:
  """Returns the number of beams after each level, at most the number of its nodes."""
  by_level = (beams,) * trie.levels if isinstance(beams, int) else beams
  return tuple(map(min, by_level, trie.num_nodes[1:]))


def by_level(widths: tuple[int, ...], beams: int, levels: int) -> Beams:
  """Returns the beams after each level: those of `eval.beam_widths`, and `beams` after the last one.

  Raises:
    ValueError: the widths are not one number or one for each level before the last.
  """
  if len(widths) == 1:
    widths = widths * (levels - 1)
  if len(widths) not in (0, levels - 1):
    raise ValueError(
      f'eval.beam_widths must be empty, one number, or {levels - 1}, one for each level of the semantic IDs before '
      f'the last; got {widths}'
    )
  return (*widths, beams) if widths else beams
