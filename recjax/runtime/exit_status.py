"""Exit statuses of a run beside 0 and 1. Imports nothing, so that launchers can use it without JAX."""

PREEMPTED = 75  # the run is saved, and the same command resumes it; EX_TEMPFAIL of sysexits.h
HUNG = 124  # ended by the watchdog; as timeout(1)

RESTART_ON = (PREEMPTED, HUNG)
