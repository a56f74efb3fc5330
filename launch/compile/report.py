"""Reports estimates: as text, with advice if a program does not fit, and as plain values for a file."""

from collections.abc import Mapping
import functools
from typing import Any

from etils import epath

from launch.compile import flops, programs
from launch.compile.chips import GIB
from launch.compile.estimate import AGREEMENT, Estimate, Memory, estimate, memory_of
from recjax.config import Config
from recjax.workdir import sizes as sizes_lib
from recjax.workdir import stages as stages_lib


def advice(
  config: Config, found: Estimate, mesh: Mapping[str, int], state: int, is_search: bool
) -> list[str]:
  """Returns settings that reduce the memory of a program, the most effective first.

  Args:
    config: the config of the run.
    found: the estimate.
    mesh: size of each mesh axis.
    state: bytes of parameters and optimizer per chip.
    is_search: whether the program is the search; False for the training step.
  """
  shards = mesh['data'] * mesh['fsdp']
  for_state, for_rest = _state_advice(config, found, mesh), []
  model, accumulation = config.model, config.grad_accumulation
  if model.compute_dtype == 'float32':
    for_rest.append('--config.model.compute_dtype=bfloat16')
  if is_search:
    if config.eval.batch_size > shards:
      for_rest.append(f'--config.eval.batch_size={max(config.eval.batch_size // 2, shards)}')
    if config.eval.beams > max(config.eval.ks):
      for_rest.append(f'--config.eval.beams={max(config.eval.beams // 2, *config.eval.ks)}')
    for_rest.append('--config.mixture.next_item.max_items lower (shorter prompts)')
  else:
    if model.remat == 'none':
      for_rest.insert(0, '--config.model.remat=full (keeps only the input of each layer)')
    if config.batch_size % (2 * accumulation * shards) == 0:
      more = f'--config.grad_accumulation={2 * accumulation}'
      for_rest.append(f'{more} (half as many rows at a time, the same step)')
    if config.batch_size // 2 >= shards:
      less = f'--config.batch_size={config.batch_size // 2}'
      for_rest.append(f'{less} (a multiple of packing.rows x hosts)')
    for_rest.append(f'--config.packing.row_length={config.packing.row_length // 2}')
  for_rest.append(f'--config.mesh.tensor={2 * mesh["tensor"]} (shards the layers too)')
  return for_state + for_rest if state > found.chip.hbm / 2 else for_rest + for_state


def _state_advice(config: Config, found: Estimate, mesh: Mapping[str, int]) -> list[str]:
  ways = []
  if mesh['data'] > 1:
    fsdp = mesh['data'] * mesh['fsdp']
    ways.append(
      f'--config.mesh.fsdp={fsdp} --config.mesh.data=1 (shards parameters and optimizer further)'
    )
  if config.optim.optimizer == 'adamw':
    ways.append('--config.optim.optimizer=adafactor (factored second moments)')
  return [*ways, f'--topology of more than {found.chips} chips']


def _gib(size: float) -> str:
  return f'{size / GIB:10.3f}'


def describe(name: str, found: Estimate, units: str, count: int) -> str:
  """Returns the report of one program as text.

  Args:
    name: name of the program.
    found: estimate of the program.
    units: unit of a step's work, such as 'tokens'.
    count: units per step.
  """
  chip, lines = found.chip, [f'{name} (compiled in {found.seconds:.0f} s)']
  if found.memory is None:
    lines.append(f'  the compiler ran out of memory: {found.refusal.splitlines()[0][:300]}')
  else:
    lines.append('  HBM a chip, GiB')
    lines += [f'    {part:<12}{_gib(size)}' for part, size in found.memory._asdict().items()]
    total = found.memory.total
    verdict = 'fits' if found.fits else 'DOES NOT FIT'
    lines.append(
      f'    {"total":<12}{_gib(total)} of {chip.hbm / GIB:.2f} ({total / chip.hbm:.0%}): {verdict}'
    )
    lines += _work_lines(found)
    sent = ', '.join(f'{kind} {size / GIB:.3f}' for kind, size in found.collectives.items())
    lines.append(f'  collectives, GiB that a chip sends: {sent or "none"}')
    line, dcn = found.roofline, ''
    if found.dcn:
      sent = ', '.join(f'{kind} {size / GIB:.3f}' for kind, size in found.dcn.items())
      lines.append(
        f'  between slices (DCN), GiB that a chip sends: {sent}, in {found.transfers} transfers'
      )
      dcn = f', DCN {line.dcn:.4f}' if chip.dcn_bandwidth else ', DCN of unknown bandwidth'
    lines.append(
      f'  at least {line.seconds:.4f} s: FLOPs {line.flops:.4f}, HBM {line.hbm:.4f}, ICI {line.ici:.4f}{dcn}; bound by '
      f'{line.bound}; at most {count / line.seconds:,.0f} {units}/s'
    )
  return '\n'.join(lines)


def _work_lines(found: Estimate) -> list[str]:
  work = found.work
  if work is None:
    return [f'  FLOPs {found.counted:.4g} counted in the program, without kernels']
  lines = [
    f'  FLOPs {work.total:.4g} in closed form, of which {work.kernels / work.total:.1%} in attention kernels and '
    f'{work.again / work.total:.1%} computed again'
  ]
  agrees = 'agrees' if found.agrees else f'DIFFERS by more than {AGREEMENT:.0%}'
  lines.append(
    f'  products counted in the program {found.counted:.4g}, closed form {work.products:.4g} '
    f'({found.difference:+.2%}): {agrees}'
  )
  return lines


def as_json(found: Estimate) -> dict[str, Any]:
  """Returns an estimate as plain values: bytes per chip, FLOPs over all chips, seconds."""
  return {
    'fits': found.fits,
    'hbm_available': found.chip.hbm,
    'hbm_needed': found.needed,
    'hbm': found.memory and found.memory._asdict(),
    'refusal': found.refusal[:600],
    'flops': found.flops,
    'flops_counted': found.counted,
    'flops_closed_form': found.work and found.work._asdict(),
    'flops_difference': found.difference,
    'collective_bytes': dict(found.collectives),
    'dcn_bytes': dict(found.dcn),
    'dcn_transfers': found.transfers,
    'roofline': found.roofline and found.roofline._asdict(),
    'compile_seconds': round(found.seconds, 1),
  }


def _memory(compiled: programs.Compiled, state: Any, is_resident: bool) -> Memory | None:
  if compiled.memory is None:
    return None
  parameters = programs.bytes_a_device(state.params)
  optimizer = programs.bytes_a_device((state.step, state.opt_state))
  return memory_of(compiled.memory, parameters, optimizer, is_resident)


def estimates(
  config: Config,
  topology: str,
  items: int,
  with_search: bool,
  hlo_folder: str | None = None,
  slices: int = 1,
) -> tuple[str, dict[str, Estimate]]:
  """Compiles the programs of a run, and prints the report of each when it is compiled.

  Every supervised stage of a run has its own training step; stages of kind grpo are left out.

  Args:
    config: the config of the run.
    topology: the slice, such as 'v5e:16x16'.
    items: number of items in the catalogue.
    with_search: whether to compile the search too.
    hlo_folder: folder to write the optimised programs to, as text; None: none.
    slices: number of slices of that topology.

  Returns:
    The assumptions as text, and the estimates by program name.

  Raises:
    ValueError: the config does not match the topology, or the compiler is not installed.
  """
  config = sizes_lib.without_data(config, items)
  chip, mesh = programs.mesh_for(topology, config.mesh, slices)
  sizes = programs.sizes(config, items)
  shape = ' x '.join(f'{axis} {n}' for axis, n in mesh.shape.items())
  in_slices = f' in {slices} slices' if slices > 1 else ''
  print(
    f'{mesh.size} chips of {chip.name}{in_slices}, mesh {shape}\nassumed: {"; ".join(sizes.assumed)}',
    flush=True,
  )
  jobs = {}
  for stage, stage_config, _, grpo in stages_lib.plan(config, epath.Path()):
    if grpo is not None:
      print(f'the step of stage {stage}, of kind grpo, is not estimated', flush=True)
      continue
    built = programs.Programs(stage_config, sizes, mesh)
    closed = functools.partial(
      flops.compiled_step, stage_config, sizes.space, built.text_targets, mesh=mesh.shape
    )
    tokens = stage_config.batch_size * stage_config.packing.row_length
    name = f'training step of stage {stage}' if stage else 'training step'
    jobs[name] = (built, built.train_step, closed, 'row tokens', tokens)
  if with_search:
    users = built.search_arguments()[2].shape[0]
    jobs['search'] = (built, built.search, lambda with_kernels: None, 'users', users)
  found = {}
  for name, (built, compile_, closed_form, units, count) in jobs.items():
    compiled = compile_()
    if hlo_folder is not None:
      folder = epath.Path(hlo_folder)
      folder.mkdir(parents=True, exist_ok=True)
      (folder / f'{name.replace(" ", "_")}.txt').write_text(compiled.hlo)
    memory = _memory(compiled, built.state, is_resident=name == 'search')
    found[name] = estimate(compiled, memory, chip, mesh.size, closed_form)
    print(describe(name, found[name], units, count), flush=True)
    if not found[name].fits:
      state = programs.bytes_a_device(built.state)
      ways = advice(config, found[name], mesh.shape, state, is_search=name == 'search')
      print('  to make it fit, set one or more of:')
      print('\n'.join(f'    {way}' for way in ways), flush=True)
  return '; '.join(sizes.assumed), found
