"""The searchers: each proposes configs in its own way, behind one protocol.

The algorithms are loaded by name through ``raytune_hpo.plugins``.
"""

from raytune_hpo.searchers.base import Searcher, TableSearcher

__all__ = ["Searcher", "TableSearcher"]
