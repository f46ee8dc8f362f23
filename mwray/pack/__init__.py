"""Several trials as one computation: networks, weight nets and optimisers of K trials stacked along a first dimension.

Trials may differ in whatever leaves the shapes of a step as they are: seeds, labels, rates, momentum, weight decay,
schedules, the shape of the weight net, the pool of meta images, the meta interval.
"""
