"""The heart: Meta-Weight-Net's exact meta-gradient without a second-order graph."""
