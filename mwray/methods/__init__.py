"""Methods of training on biased labels. Importing this package imports torch; their settings do not."""
