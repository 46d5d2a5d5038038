"""Results in trackers: the journal's records brought to MLflow and TensorBoard.

The work is done in a process of its own (``python -m raytune_hpo.tracking follow RUN_DIR``), which
reads the journal. Nothing here is imported by a driver but ``process``, which is light.
"""
