"""Figures of the paper and studies, each one command.

`paper` trains as figures 4 and 5 do, `spectrum` draws figures 1 and 3,
`landscape` draws figure 2, and `stability` replaces a training example:

    python -m trainers.experiments.landscape --help
"""
