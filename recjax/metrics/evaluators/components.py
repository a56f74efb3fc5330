"""The component of the mixture that an evaluator asks, chosen by name or by task."""

from collections.abc import Mapping

from recjax.data.tasks.base import Component
from recjax.metrics.evaluators.base import Evaluator


def chosen(
  evaluator: Evaluator,
  name: str | None,
  tasks: tuple[str, ...],
  components: Mapping[str, Component],
) -> str:
  """Returns the name of the component that an evaluator asks.

  Args:
    evaluator: it has a field `component`.
    name: value of that field. None: the component with the largest final weight, of the first task that any has.
    tasks: the tasks that the evaluator can ask.
    components: the active components of the mixture, by name.

  Raises:
    ValueError: there is no such component, or it has another task.
  """
  found = {n: c for n, c in components.items() if c.task in tasks}
  allowed = ' or '.join(tasks)
  if not found:
    present = ', '.join(f'{n} ({c.task})' for n, c in components.items())
    raise ValueError(
      f'{evaluator.prefix.removesuffix(".")} needs an active component with the task {allowed} in the mixture; it has '
      f'{present}. Set --config.mixture.{tasks[0]}.weight, or leave the evaluator out'
    )
  if name is not None:
    evaluator.check_field(
      name in found,
      f'must name an active component with the task {allowed} ({", ".join(found)})',
      'component',
    )
    return name
  return max(found, key=lambda n: (-tasks.index(found[n].task), found[n].final_weight))
