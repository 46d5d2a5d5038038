#!/bin/bash
#SBATCH --job-name=digits
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --chdir=/home/me/digits
#SBATCH --output=/home/me/digits/slurm-%j.out

export PATH=/home/me/venv/bin:"$PATH"

exec /home/me/venv/bin/python -m raytune_hpo.slurm.job --run-dir /home/me/digits/raytune-results/digits --max-restarts 50 --script "$0" -- run /home/me/digits/experiment.yaml --resume
