"""A machine without Ray - one with a GPU and little else - can run all tests but those of what needs Ray or Optuna."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("ray") and find_spec("optuna") else ["cluster"]
