"""Cells made at random: descriptions, which are plain data, and the cell that runs one.

A `Description` is a step written with the library's ops: three to twenty of them over one to three states. It is
frozen, hashable, prints as equations, and its repr makes it again. Sizes are counted in units, so one description is a
cell of any size. Next states are bounded, so a run of any length stays finite.

    rng = np.random.default_rng(0)
    description = random_description(rng)
    print(description)
    cell = RandomCell(description, input_size=4, unit=16, rng=rng)
    ys, final = tr.scan(cell, xs)
"""

from tinyrnn.search.description import Description, Node, RandomCell
from tinyrnn.search.kinds import KINDS
from tinyrnn.search.making import descriptions, random_description

__all__ = ["KINDS", "Description", "Node", "RandomCell", "descriptions", "random_description"]
