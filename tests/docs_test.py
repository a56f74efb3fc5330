"""Links, tests, files and line counts in the README and the docs are correct."""

import re

import pytest

from tests.folders import ROOT

PAGES = sorted(
  [
    ROOT / 'README.md',
    ROOT / 'WORKSPACE.md',
    ROOT / 'results/README.md',
    *(ROOT / 'docs').glob('*.md'),
  ]
)


def anchors(text):
  """Returns the anchors of a page's headings."""
  headings = re.findall(r'^#+ (.*)$', text, re.M)
  return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
  for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
    if link.startswith(('http://', 'https://')):
      continue
    path, _, anchor = link.partition('#')
    target = (page.parent / path) if path else page
    assert target.exists(), f'{page}: {link}'
    assert not anchor or anchor in anchors(target.read_text()), f'{page}: {link}'


def test_the_readme_has_at_most_150_lines():
  assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


def test_the_reading_order_states_the_lengths_of_files():
  text = (ROOT / 'README.md').read_text()
  stated = {
    path: int(n) for path, n in re.findall(r'^\d+\. \[[^]]+\]\(([^)]+)\) \((\d+)\)', text, re.M)
  }
  lines = {path: len((ROOT / path).read_text().splitlines()) for path in stated}
  assert len(stated) > 10
  assert sum(lines.values()) <= 4400
  for path, n in stated.items():
    assert abs(lines[path] - n) <= 0.1 * n + 5, f'{path}: {lines[path]} lines'


def test_guarantees_name_tests_that_exist():
  text = (ROOT / 'README.md').read_text()
  section = text[text.index('## Guarantees') : text.index('## Documents')]
  named = re.findall(r'\]\((tests/[^)]+)\) `(test_\w+)`', section)
  assert len(named) >= 9
  for path, name in named:
    assert f'def {name}(' in (ROOT / path).read_text(), f'{path}: {name}'


def test_modules_that_commands_run_exist():
  for page in PAGES:
    for module in re.findall(
      r'python -m ((?:recjax|launch|bench|data_prep|tests)[\w.]*\w)', page.read_text()
    ):
      path = ROOT / module.replace('.', '/')
      assert (
        path.with_suffix('.py').exists()
        or (path / '__main__.py').exists()
        or 'NAME' in module
        or module == 'bench.X'
      ), f'{page}: {module}'


def test_files_that_the_map_names_exist():
  text = (ROOT / 'WORKSPACE.md').read_text()
  for path in re.findall(
    r'`((?:recjax|data_prep|tests|configs|launch)/[\w./]+\.(?:py|json))`', text
  ):
    assert (ROOT / path).exists() or 'NAME' in path, path
