"""Version of the generated data, by hand: raise it whenever what the generator draws or asks changes.

It stands alone so that the identity of a cell can be computed without importing the generator.
"""

from __future__ import annotations

GENERATOR_VERSION = 1
