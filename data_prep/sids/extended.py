"""The SID table of a daily refresh: old items keep their SIDs, new ones get codes of the earlier quantizer."""

from collections.abc import Sequence

from etils import epath
import numpy as np

from data_prep import files, refresh
from recjax.schema.sids import Sids
from recjax.sids import extension, published
from recjax.sids.quantizers.saved import FILE as QUANTIZER
from recjax.sids.quantizers.saved import Quantizer
from recjax.sids.table import SidTable
from recjax.sids.vectors import Vectors

_TABLE = ('sids/codes.npy', 'sids/sids.json')


def inputs(sids: Sids) -> dict[str, epath.Path]:
  """Returns the files of the earlier preparation that `table` reads."""
  quantizer = (f'sids/{QUANTIZER}',) if sids.needs_vectors else ()
  return refresh.inputs(sids, files.ITEMS, *_TABLE, *quantizer)


def table(
  sids: Sids,
  today: Sequence[str],
  vectors_ID: np.ndarray | Vectors | None,
  table_file: epath.Path | None,
) -> tuple[SidTable, Quantizer | None]:
  """Returns today's table in the earlier code space, and the frozen quantizer (None for imported SIDs and codes of items).

  Args:
    sids: `extend` names the earlier preparation.
    today: raw ids of today's items.
    vectors_ID: floats of today's items in the space that the quantizer was fitted to.
    table_file: a published table with the codes of all items; None: quantize the vectors of new items.

  Raises:
    ValueError: an item finds no free SID; the earlier quantizer and SIDs do not belong together; or the
      published table lacks an item or has other codes for an old item.
  """
  folder = refresh.earlier(sids) / 'sids'
  before = SidTable.load(folder)
  rows_I = refresh.item_rows(sids, today)
  new = np.flatnonzero(rows_I < 0)
  if table_file is not None:
    codes_IQ = published.read(table_file, today, sids.codes)
    _check_unchanged(codes_IQ, before, rows_I, today, table_file)
    return extension.extend(before, rows_I, codes_IQ[new], None, today), None
  if sids.quantizer == 'item':
    return extension.extend_items(before, rows_I, today), None
  quantizer = Quantizer.load(folder)
  if quantizer.fingerprint != before.codebooks:
    raise ValueError(
      f'{folder} must hold the quantizer of its SIDs, {before.codebooks}; it holds '
      f'{quantizer.fingerprint}. Prepare that folder again'
    )
  vectors_ND = vectors_ID[new]
  latents_NZ = quantizer.encode(vectors_ND)

  def alternatives(n: int):
    return extension.nearest_codes(latents_NZ[n], quantizer.codebooks)

  codes_NQ = quantizer.assign(vectors_ND)
  return extension.extend(before, rows_I, codes_NQ, alternatives, today), quantizer


def _check_unchanged(
  codes_IQ: np.ndarray,
  before: SidTable,
  rows_I: np.ndarray,
  today: Sequence[str],
  file: epath.Path,
) -> None:
  old = np.flatnonzero(rows_I >= 0)
  before_OQ = before.codes_IL[rows_I[old], : before.quantized_levels]
  changed = old[(codes_IQ[old] != before_OQ).any(axis=1)]
  if len(changed):
    item = changed[0]
    raise ValueError(
      f'{file} must have the codes of sids.extend for its items; {len(changed)} items differ, such as '
      f'{today[item]!r}: {codes_IQ[item].tolist()} in the file, {before.codes_IL[rows_I[item]].tolist()} in '
      'sids.extend. Correct the file, or build new SIDs without --config.sids.extend'
    )
