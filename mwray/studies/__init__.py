"""Studies: the paper's tables as lists of experiments, at the paper's size or cut down. No torch, no Ray."""
