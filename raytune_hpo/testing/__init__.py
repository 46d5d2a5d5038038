"""Contract tests that a plug-in's author runs too.

``raytune_hpo.testing.searchers.SearcherContract`` and
``raytune_hpo.testing.schedulers.SchedulerContract`` are pytest classes. A test file of the plug-in
subclasses them and gives a ``make`` method; pytest then runs every test of the contract::

    from raytune_hpo.testing.searchers import SearcherContract

    class TestAnnealing(SearcherContract):
        def make(self, space, objective, seed):
            return Annealing(space, objective, seed)
"""
