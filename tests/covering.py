"""Cases in which every pair of values of two factors meets."""

import itertools


def pairs(case):
    """Returns the pairs of values of a case, each with its two factors."""
    return set(itertools.combinations(enumerate(case), 2))


def cases(factors, first=(), allowed=lambda case: True):
    """Returns cases that hold every pair, found one by one, greedily.

    `factors` holds the values of each factor, `first` cases to begin with;
    pairs of which no allowed case holds any are left out.
    """
    found = list(first)
    missing = {
        ((i, a), (j, b))
        for (i, one), (j, other) in itertools.combinations(
            enumerate(factors), 2
        )
        for a, b in itertools.product(one, other)
    }
    for case in found:
        missing -= pairs(case)
    while missing:
        case = _fill(min(missing, key=repr), factors, missing, allowed)
        if case is None:
            missing.remove(min(missing, key=repr))
            continue
        missing -= pairs(case)
        found.append(case)
    return found


def _fill(pair, factors, missing, allowed):
    """Returns an allowed case with a pair and, greedily, many others."""
    chosen = dict(pair)
    for i, values in enumerate(factors):
        if i in chosen:
            continue

        def gain(value, i=i):
            new = [
                tuple(sorted([(i, value), other])) for other in chosen.items()
            ]
            return sum(p in missing for p in new)

        for value in sorted(values, key=gain, reverse=True):
            if allowed(chosen | {i: value}):
                chosen[i] = value
                break
        else:
            return None
    if not allowed(chosen):
        return None
    return tuple(chosen[i] for i in range(len(factors)))
