"""Search and training over Ray: the only package that imports ray or optuna."""
