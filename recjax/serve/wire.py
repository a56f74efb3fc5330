"""The JSON of the service: bodies become requests; a wrong body is refused with a message."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any, NamedTuple

from recjax.data.requests import Request
from recjax.schema.names import question

FIELDS = (
  *('history', 'times', 'events', 'k', 'beams', 'within', 'candidates', 'exclude', 'unknown'),
  'explain',
)


class Refused(Exception):
  """A call that is not answered.

  Attributes:
    status: HTTP status.
    fields: of the JSON answer: `error`, a message, and others.
    headers: of the answer.
  """

  def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **fields):
    super().__init__(message)
    self.status, self.fields, self.headers = status, {'error': message, **fields}, headers or {}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a request may ask for.

  Attributes:
    beams: numbers of beams, of which the first is the default.
    requests: requests of a list.
    ids: item ids of a history, of `exclude` or of `within`.
    candidates: items of `candidates`.
    items: items of the catalogue.
  """

  beams: tuple[int, ...]
  requests: int
  ids: int
  candidates: int
  items: int


class Query(NamedTuple):
  """A request of a call.

  Attributes:
    request: what is asked, always with unknown='skip', so that the answer lists all unknown items.
    beams: beams of the search. 0: candidates are scored, without a search.
    place: names the request in messages: 'request 3: ', or nothing if the call holds one request.
    skips_unknown: whether items of the history that are not in the catalogue are left out, not refused.
    explain: whether the answer also has the SID path of the items and the items of one-hop counting.
  """

  request: Request
  beams: int
  place: str = ''
  skips_unknown: bool = False
  explain: bool = False


def parse(body: bytes) -> Any:
  """Returns the value of a JSON body.

  Raises:
    Refused: it is no JSON.
  """
  try:
    return json.loads(body, parse_constant=_no_constant, object_pairs_hook=_object)
  except (ValueError, RecursionError) as error:
    reason = 'it is nested too deeply' if isinstance(error, RecursionError) else str(error)
    raise Refused(400, f'the body must be JSON: {reason}') from error


def queries(value: Any, limits: Limits) -> tuple[bool, list[Query]]:
  """Returns whether a body holds one request, not a list, and the requests.

  Raises:
    Refused: the value is no request and no list of them, or a field is wrong.
  """
  is_one = isinstance(value, dict)
  if not is_one:
    must = (
      f'the body must be an object with "history", or a list of 1 to {limits.requests:,} of them'
    )
    _check(isinstance(value, list), must, value)
    if not 1 <= len(value) <= limits.requests:
      raise Refused(400, f'{must}; got a list of {len(value):,}')
  places = [''] if is_one else [f'request {n}: ' for n in range(len(value))]
  values = [value] if is_one else value
  return is_one, [_query(each, limits, place) for each, place in zip(values, places, strict=True)]


def change(value: Any) -> tuple[str | None, str | None]:
  """Returns the folders of another catalogue and of its masks; None: the earlier catalogue, the masks of the start.

  Raises:
    Refused: the value is no change of the catalogue.
  """
  must = 'the body must be {"swap": FOLDER}, with {"masks": FOLDER} if they have moved, or {"roll_back": true}'
  _check(isinstance(value, dict), must, value)
  if set(value) == {'roll_back'} and value['roll_back'] is True:
    return None, None
  is_swap = 'swap' in value and set(value) <= {'swap', 'masks'}
  if not (is_swap and all(isinstance(each, str) and each for each in value.values())):
    raise Refused(400, f'{must}; got {json.dumps(value)[:80]}')
  return value['swap'], value.get('masks')


def _query(fields: Any, limits: Limits, place: str) -> Query:
  _check(isinstance(fields, dict), f'{place}a request must be an object', fields)
  for name in fields:
    if name not in FIELDS:
      known = f'{place}the fields of a request are {", ".join(FIELDS)}'
      raise Refused(400, f'{known}; got {_short(name)}{question(name[:80], FIELDS)}')
  if 'history' not in fields:
    raise Refused(400, f'{place}a request must have "history", a list of item ids; got none')
  fields = {name: value for name, value in fields.items() if value is not None or name == 'history'}
  _check_lists(fields, limits, place)
  beams, k = _sizes(fields, limits, place)
  unknown = fields.get('unknown', 'error')
  _check(unknown in ('error', 'skip'), f'{place}unknown must be "error" or "skip"', unknown)
  explain = fields.get('explain', False)
  _check(isinstance(explain, bool), f'{place}explain must be true or false', explain)
  columns = {name: fields[name] for name in ('times', 'events') if name in fields}
  history = fields['history']
  request = Request(
    history={'history': history, **columns} if columns else history,
    k=k,
    within=fields.get('within'),
    exclude=fields.get('exclude', ()),
    candidates=fields.get('candidates'),
    beams=beams if beams in limits.beams[1:] else None,
    unknown='skip',
  )
  return Query(request, beams, place, unknown == 'skip', explain)


def _sizes(fields: Mapping[str, Any], limits: Limits, place: str) -> tuple[int, int]:
  """Returns beams (0: candidates are scored) and k of a request."""
  if 'candidates' in fields:
    must = f'{place}beams must not be given with candidates, which are scored without a search'
    _check('beams' not in fields, must, fields.get('beams'))
    beams, most, reason = 0, len(fields['candidates']), 'the number of candidates'
    k = fields.get('k', most)
  else:
    beams = fields.get('beams', limits.beams[0])
    allowed = ' or '.join(map(str, limits.beams))
    _check(_is_int(beams) and beams in limits.beams, f'{place}beams must be {allowed}', beams)
    most, reason = beams, 'the beams of the search'
    if limits.items < beams:
      most, reason = limits.items, 'the items of the catalogue'
    k = fields.get('k', min(Request.k, most))
  _check(_is_int(k) and 1 <= k <= most, f'{place}k must be from 1 to {most}, {reason}', k)
  return beams, k


def _check_ids(ids: Any, name: str, most: int, place: str) -> None:
  """Refuses a value that is no list of item ids."""
  must = f'{place}{name} must be a list of item ids'
  _check(isinstance(ids, list), must, ids)
  if len(ids) > most:
    raise Refused(400, f'{place}{name} must have at most {most:,} ids; got {len(ids):,}')
  wrong = [each for each in ids if not (isinstance(each, str) or _is_int(each))]
  if wrong:
    raise Refused(400, f'{must}, which are strings; got {_short(wrong[0])}')
  if name == 'candidates':
    _check(bool(ids), f'{place}candidates must name at least one item', ids)


def _check_lists(fields: Mapping[str, Any], limits: Limits, place: str) -> None:
  """Refuses what is no list of ids, columns that do not fit the history, and what is no mask."""
  for name, most in (
    ('history', limits.ids),
    ('exclude', limits.ids),
    ('candidates', limits.candidates),
  ):
    if name in fields:
      _check_ids(fields[name], name, most, place)
  for name in ('times', 'events'):
    if name in fields:
      must = f'{place}{name} must be a list with one value per item of the history'
      is_list = isinstance(fields[name], list)
      _check(is_list and len(fields[name]) == len(fields['history']), must, fields[name])
  within = fields.get('within', '')
  must = f'{place}within must be a mask, such as "in_stock & ~adult", or a list of item ids'
  _check(isinstance(within, str | list), must, within)
  if isinstance(within, list):
    _check_ids(within, 'within', limits.ids, place)


def encode(value: Any) -> bytes:
  """Returns ASCII JSON, which any text of a title or a message can be written in."""
  return json.dumps(value, allow_nan=False, separators=(',', ':')).encode('ascii')


def _is_int(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns an object of JSON; of a name that occurs twice readers would take different values."""
  found = {}
  for name, value in pairs:
    if name in found:
      raise ValueError(f'a name must occur once in an object; {_short(name)} occurs twice')
    found[name] = value
  return found


def _no_constant(name: str) -> None:
  raise ValueError(f'numbers must be finite; got {name}')


def _check(condition: bool, must: str, got: Any) -> None:
  if not condition:
    raise Refused(400, f'{must}; got {_short(got)}')


def _short(value: Any) -> str:
  """Returns a value of JSON in at most 80 characters."""
  if isinstance(value, dict):
    return 'an object'
  if isinstance(value, list):
    return f'a list of {len(value):,}'
  text = json.dumps(value)
  return text if len(text) <= 80 else f'{text[:77]}…'
