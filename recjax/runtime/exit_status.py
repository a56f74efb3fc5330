"""Exit statuses of a run other than 0 and 1. Imports nothing, so launchers can use it without JAX."""

PREEMPTED = 75  # the run is saved and the same command resumes it (EX_TEMPFAIL of sysexits.h)
HUNG = 124  # the watchdog ended the run (timeout(1) uses the same status)

RESTART_ON = (PREEMPTED, HUNG)
