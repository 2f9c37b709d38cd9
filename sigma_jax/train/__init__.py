"""One trainer for all tasks: task, state, step, loop."""
