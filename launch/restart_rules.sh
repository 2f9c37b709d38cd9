#!/usr/bin/env bash
# When a training command that ended is started again. Sourced: . launch/restart_rules.sh
#   75    preempted: the state is saved
#   76    another process of the run was lost
#   69    the processes did not meet: at a first start a mistake, later one that is not back yet
#   > 128 ended by a signal: 134 is JAX's own end after a process fell silent, 137 kill -9 or no memory left
# Anything else is an error that would come again (1), wrong flags (2), or the end of the run (0).
# TRIES (default 10): how many starts in a row may end without a new checkpoint.

# restart_wanted STATUS NUMBER_OF_STARTS
restart_wanted() {
  case "$1" in
    75 | 76) return 0 ;;
    69) [ "$2" -gt 1 ] ;;
    *) [ "$1" -gt 128 ] ;;
  esac
}

# tries_after STATUS TRIES: prints how many starts in a row now ended without progress. The training process writes to
# SIGMA_PROGRESS_FILE when a checkpoint is complete; a preemption never counts.
tries_after() {
  if [ "$1" -eq 75 ] || [ -s "$SIGMA_PROGRESS_FILE" ]; then echo 0; else echo $(($2 + 1)); fi
}

# tries_left STATUS TRIES: whether another start makes sense; says so if not.
tries_left() {
  [ "$2" -lt "${TRIES:-10}" ] && return 0
  echo "exit status $1, and $2 starts in a row ended without a new checkpoint: giving up (TRIES=${TRIES:-10})." \
    "Each start's reason is in the log above, and in those of the other hosts" >&2
  return 1
}
