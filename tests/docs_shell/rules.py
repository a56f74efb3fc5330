"""How `tests/docs_commands_test.py` runs the commands of the documents. New commands need entries here:

- a placeholder such as FOLDER gets a value in `VALUES`, for one page or for all;
- a page that needs the result of an earlier command gets this command in `BEFORE`;
- a program that cannot run here, such as one for a pod, gets a plan in `PLANS`;
- a command that is not recjax's, such as docker, gets a function in `CHECKS` of the test;
- a block that is no shell command gets a language in the document: ```text for output, which is not run; ```python
  for code, which is run after the lines of `PYTHON`.

In values, WORLD is the folder of `docs_shell/world.py`: `plain` is a log with the usual column names (and has
histories.jsonl), `later` is its next one, `shop` has names of its own, `odd` has oddities too, `raw/NAME` is Amazon's layout; `gemma3` and `t5_v1_1` are checkpoints. Commands
without `data.raw_dir` find `raw/NAME` by $RECJAX_DATA.
"""

import re

# Page, or '' for all pages → pattern → replacement.
VALUES = {
  '': {
    r'\bFOLDER\b': 'WORLD/plain',
    r'\bgs://BUCKET\b': 'gs://bucket',
    r'\bIMAGE\b': 'registry/recjax:1',
  },
  # A refresh ends with go (0) or no-go (3); which one is chance after a training of few steps.
  'README.md': {
    r'(recjax --mode=refresh .*)': r'\1 || test $? = 3',
    r'\bTOMORROW\b': 'WORLD/later',
  },
  'docs/daily_refresh.md': {
    r'\belse echo\b': 'else test $? = 3; echo',
    r'\bNEW_LOG\b': 'WORLD/raw/beauty',
    r'\bh\.jsonl\b': 'histories.jsonl',
  },
  'docs/evaluation.md': {r',runs/sasrec_\*': ''},  # its runs are planned, not made
  'docs/gke.md': {
    r' …$': ' --config=recjax:sports --config.data.prepared_dir=gs://b/s --workdir=gs://b/w'
  },
  'docs/grpo.md': {r'demo\.py:grpo': 'demo.py:tiny_grpo'},
  'docs/pretrained.md': {
    r'(?<=gemma3_270m --config\.model\.pretrained=)FOLDER': 'WORLD/gemma3',
    r'(?<=flan_t5_base --config\.model\.pretrained=)FOLDER': 'WORLD/t5_v1_1',
    r'(?<=check )FOLDER': 'WORLD/gemma3',
    r'\btokens\.npy': 'WORLD/tokens.npy',
    # It needs torch; tests/recjax/workdir/export runs it where torch is installed.
    r'python (EXPORT/(recommend|generate)\.py) .*': r'test -f \1',
    r'python BUNDLE/rank\.py .*': 'true',  # tests/recjax/workdir/export runs it
  },
  'docs/scaling.md': {
    r' …$': ' --config=recjax:sports --config.data.prepared_dir=gs://b/s --workdir=gs://b/w'
  },
  'docs/sids.md': {
    r'(?<=KEY=)…': 'secret',
    r'\bENCODER\b': 'WORLD/gemma3',
    r'.* --format=vectors .*': 'true',  # tests/recjax/workdir/export/item_vectors_test.py
  },
}

# Page → commands that run before its own.
BEFORE = {
  'docs/configuration.md': ('python -m recjax.main --config=configs/beauty.py:cpu',),
  'docs/pretrained.md': (
    'python -m recjax.main --config=configs/sports.py:flat --config.model.pretrained=WORLD/t5_v1_1 --mode=prepare '
    '--config.model.sid_rows=sa_init --config.model.family=t5',
    'cp data/sports-t5_v1_1/keywords/keywords.json .',
  ),
  'docs/daily_refresh.md': ("""echo '{"history": ["B004756YJA"]}' > histories.jsonl""",),
}

# Pattern of a program with its arguments → how it is planned; the first match counts.
#   tuple: these flags are added, with which it changes nothing
#   'parse': its flags are parsed, and its config is checked
#   'launch': with --dry_run, and the flags of the program that it starts are parsed
PLANS = {
  r'launch\.compile ': 'parse',
  r'launch\.': 'launch',
  r'bench\.(?!shop_log)': 'parse',
  r'data_prep\.encode ': 'parse',  # tests/data_prep/encode_test.py
  r'recjax\.main .*--mode=serve': 'parse',  # tests/recjax/serve
  r'recjax\.main .*gs://': 'parse',
  r'recjax\.main .*--config\.data\.engine=beam': 'parse',  # make beamtest
  r'recjax\.main .*--format=bundle': 'parse',  # seconds for each compiled search
  r'recjax\.main .*pretrained=hf:': 'parse',
  r'recjax\.main .*--config=configs/industrial\.py': 'parse',
  r'recjax\.main .*--config=configs/sasrec\.py': 'parse',
  r'recjax\.main .*--workdir=runs/item': 'parse',  # docs/daily_refresh.md trains the recipe
  r'recjax\.main .*--config\.keywords\.teacher=http': 'parse',
}

# Flags of every other program with an experiment: with them it takes seconds.
SMALL_PROGRAMS = ('recjax.main', 'recjax.inspect')
SMALL = (
  '--config.num_train_steps=4',
  '--config.log_every_steps=1',
  '--config.eval_every_steps=2',
  '--config.checkpoint_every_steps=2',
  '--config.optim.warmup_steps=1',
  '--config.batch_size=8',
  '--config.packing.rows=4',
  '--config.sids.codes=(8,8)',
  '--config.sids.encoder=tfidf',
  '--config.sids.tfidf_width=8',
  '--config.sids.cooccurrence_width=8',
  '--config.eval.beams=20',
  '--config.eval.batch_size=64',
  '--config.eval.eval_users=32',
)
SMALL_MODEL = (  # not with a pretrained model, whose folder has the sizes
  '--config.model.depth=1',
  '--config.model.width=16',
  '--config.model.ff_width=32',
  '--config.model.heads=2',
  '--config.model.kv_heads=1',
  '--config.model.head_width=8',
  '--config.model.scan_unroll=1',
)
SMALL_PRETRAINED = (
  '--config.packing.row_length=128',
  '--config.model.compute_dtype=float32',
  '--config.model.remat=none',
)

# Page, or '' for all pages → lines that run before its Python code.
PYTHON = {
  '': """
from configs import beauty
config = beauty.get_config('flat-cpu')
""",
}


def plan(module: str, arguments: list[str]) -> tuple[str, ...] | str:
  """Returns the plan of a program; an empty tuple if it runs as it is."""
  command = ' '.join([module, *arguments])
  return next((plan for pattern, plan in PLANS.items() if re.search(pattern, command)), ())


def small(module: str, arguments: list[str]) -> list[str]:
  """Returns the arguments with settings that make an experiment small; workdirs and tiny ones have their own."""
  at = [n for n, a in enumerate(arguments, 1) if a.startswith('--config=')]
  if (
    module not in SMALL_PROGRAMS
    or not at
    or arguments[at[0] - 1].endswith(('.json', ':tiny', ':tiny_grpo'))
  ):
    return arguments
  if 'configs/sasrec.py' in arguments[at[0] - 1]:  # only parsed; its one level has a code an item
    return arguments
  is_pretrained = any(a.startswith('--config.model.pretrained=') for a in arguments)
  added = (*SMALL, *(SMALL_PRETRAINED if is_pretrained else SMALL_MODEL))
  # Before the document's own flags, because the last of several flags for a field counts.
  return [*arguments[: at[0]], *added, *arguments[at[0] :]]


def with_values(page: str, text: str, world: str) -> str:
  """Returns a block with the values of its page and of all pages in place of the placeholders."""
  for where in (page, ''):
    for pattern, value in VALUES.get(where, {}).items():
      text = re.sub(pattern, value, text, flags=re.M)
  return re.sub(r'\bWORLD\b', world, text)
