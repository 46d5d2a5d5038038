"""The Slurm launcher."""
