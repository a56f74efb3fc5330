"""A whole example, with a comment at every field that is often changed. Copy it and change what you need.

Command:   python -m recjax.main --config=configs/example.py              synthetic data
           python -m recjax.main --config=configs/example.py:table --config.data.raw_dir=FOLDER    your own tables
           python -m recjax.main --config=configs/example.py:stages       two stages instead of one
           python -m recjax.main --config=configs/example.py:tiny         a small world and six steps
Hardware:  2 cores, no accelerator

`--mode=config` prints all fields, also those that this file leaves at their defaults, with meaning and range. The command
line changes any of them: --config.model.width=256. docs/configuration.md describes sections that only the command line
names.
"""

from configs import common
from recjax.config import component, defaults, group, ordered, stage

VARIANTS = ('', 'table', 'stages', 'tiny')


def get_config(variant: str = ''):
  common.check_variant(variant, VARIANTS)
  # The source decides which options the data section has. `name` names the folder data/<name> of the prepared data.
  config = defaults(source='table' if variant == 'table' else 'synthetic', name='example')
  _data(config)
  _tasks(config)
  _model(config)
  _training(config)
  _evaluation(config)
  if variant == 'stages':
    _two_stages(config)
  if variant == 'tiny':
    _shrink(config)
  return config


def _data(config):
  # Where the log comes from, and what is kept of it.
  if config.data.source == 'table':
    config.data.user_column = 'user'  # column names of interactions.csv and items.csv
    config.data.item_column = 'item'
    config.data.time_column = 'time'
  config.data.k_core = 0  # drop users and items with fewer interactions; 0: keep all
  config.data.split = 'leave_one_out'  # hold out each user's last two items; or 'global_time'
  config.data.max_text_tokens = 128  # an item's text is cut after so many tokens

  # Semantic IDs: item vectors, quantized to a code for each level.
  config.sids.source = 'both'  # vectors: from 'text', 'cooccurrence' in histories, or 'both'
  config.sids.encoder = 'tfidf'  # 'minilm' (after `make encoder`), 'auto', or a folder
  config.sids.codes = (64, 64, 64)  # codes of each level; (): from the size of the catalogue
  config.sids.collisions = 'deduplicate'  # a further level tells items with equal codes apart


def _tasks(config):
  # The mixture: what the model learns, by name. Weights are shares of the examples.
  config.mixture.next_item.weight = 0.9  # recommendations continue the prompt of this component
  config.mixture.next_item.max_items = 20  # newest items of a history that are shown
  config.mixture.next_item.show = 'sid'  # or 'title' or 'both'
  config.mixture.next_item.prompts = ('History: {history}',)  # (): the task's own wordings
  config.mixture.title_to_sid = component('title_to_sid', weight=0.1)


def _model(config):
  # The backbone, from random weights. --config.model.pretrained=FOLDER starts from a checkpoint of transformers
  # and takes the sizes from there; `family` must be its family. --config.model.lora_rank=8 then trains adapters.
  config.model.family = 'gemma'  # or 'qwen', 't5'
  config.model.depth = 2  # layers
  config.model.width = 64  # width of the residual stream
  config.model.ff_width = 256  # hidden width of the feed-forward layers
  config.model.heads = 2
  config.model.kv_heads = 2
  config.model.dropout = 0.1
  config.model.compute_dtype = 'float32'  # 'bfloat16' on an accelerator


def _training(config):
  config.seed = 0  # of initial weights, dropout and the order of examples
  config.num_train_steps = 800  # or num_epochs; None: from the data, as other sizes below
  config.batch_size = 32  # packed rows of a step; a multiple of packing.rows
  config.packing.row_length = 160  # tokens of a row; several examples share a row
  config.packing.rows = 32  # rows that are packed together

  config.optim.optimizer = 'adamw'  # or 'adafactor'
  config.optim.learning_rate = 4e-3  # the highest, after the warm-up
  config.optim.warmup_steps = 50
  config.optim.schedule = 'cosine'  # or 'linear', 'constant', 'inverse_sqrt'
  config.optim.weight_decay = 0.1
  config.optim.clip_norm = 1.0  # limit on the norm of the gradient; 0: none
  # Groups of parameters with their own rates; the first pattern that matches a parameter's path counts.
  config.optim.groups = ordered(
    sids=group('tables/sid', learning_rate=1.5),  # a factor on optim.learning_rate
    norms=group('norm', weight_decay=0.0),
  )
  config.loss.label_smoothing = 0.0

  config.log_every_steps = 50
  config.checkpoint_every_steps = 200  # a killed run continues from its newest checkpoint
  config.checkpoint.max_to_keep = 2  # the best one is kept too


def _evaluation(config):
  config.eval_every_steps = 200
  config.eval.eval_users = 1000  # validation rows of an evaluation during training; at the end all
  config.eval.patience = 0  # end after so many evaluations without a better ndcg@10; 0: never
  config.eval.beams = 30  # items that the search ranks
  config.eval.ks = (1, 5, 10, 20)  # cut-offs of the metrics
  config.eval.exclude_seen = True  # never recommend an item of the history
  config.eval.batch_size = 256


def _two_stages(config):
  # A stage starts from the parameters of the one before. Its unset fields keep the values of the run.
  config.stages = ordered(
    titles=stage(200, mixture=('title_to_sid',), schedule='constant'),
    recommend=stage(600),
  )


def _shrink(config):
  config.data.name = 'example-tiny'
  config.data.synthetic_items = 120
  config.data.synthetic_users = 300
  config.data.text_pieces = 512
  config.sids.codes = (16, 16)
  config.sids.tfidf_width = 16
  config.sids.cooccurrence_width = 8
  config.model.depth = 1
  config.model.width = 16
  config.model.ff_width = 32
  config.packing.rows = 8
  config.batch_size = 8
  config.num_train_steps = 6
  config.optim.warmup_steps = 2
  config.log_every_steps = 1
  config.eval_every_steps = config.checkpoint_every_steps = 3
  config.eval.eval_users = 60
