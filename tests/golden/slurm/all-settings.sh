#!/bin/bash
#SBATCH --job-name=digits
#SBATCH --partition=main
#SBATCH --account=physics
#SBATCH --qos=high
#SBATCH --constraint=ib&avx512
#SBATCH --reservation=monday
#SBATCH --nodes=4-8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gres=gpu:h100:2,ssd
#SBATCH --mem=1431M
#SBATCH --time=1-12:00:00
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --chdir=/home/me/digits
#SBATCH --output=/home/me/digits/slurm-%j.out
#SBATCH --mail-type=END,FAIL
#SBATCH --licenses=matlab:1

module load python/3.12
module load cuda/12.4
export OMP_NUM_THREADS=1
echo "begun at $(date)"
export PATH=/opt/envs/tuning/bin:"$PATH"

exec /opt/envs/tuning/bin/python -m raytune_hpo.slurm.job --run-dir /home/me/digits/raytune-results/digits --max-restarts 7 --no-requeue --script "$0" -- run /home/me/digits/experiment.yaml --resume
