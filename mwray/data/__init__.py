"""Images, labels and what is wrong with them: sources, biases, splits and batches."""
