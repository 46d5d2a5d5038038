"""``python -m raytune_hpo``: the command line."""

from raytune_hpo.cli import main

main()
