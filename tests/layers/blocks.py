"""Constructors of all blocks, with `outputs` as the argument."""

import ple_keras as pk

BLOCKS = {
    "cgc": lambda outputs, **kw: pk.CGCBlock(outputs, 3, **kw),
    "ple": lambda outputs, **kw: pk.PLEBlock(2, outputs, 3, **kw),
    "mmoe": lambda outputs, **kw: pk.MMoEBlock(outputs, 3, 2, **kw),
    "shared_bottom": lambda outputs, **kw: pk.SharedBottomBlock(outputs, 3, **kw),
}
