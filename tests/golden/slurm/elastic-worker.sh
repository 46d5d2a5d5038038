#!/bin/bash
#SBATCH --job-name=digits-worker
#SBATCH --partition=low
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --no-requeue
#SBATCH --signal=B:USR1@120
#SBATCH --chdir=/home/me/digits/raytune-results/digits
#SBATCH --output=/home/me/digits/raytune-results/digits/slurm/worker-%A_%a.out

export PATH=/home/me/venv/bin:"$PATH"

exec /home/me/venv/bin/python -m raytune_hpo.slurm.node --cluster /home/me/digits/raytune-results/digits/slurm/cluster.json --margin-s 120
