#!/bin/bash
# One run as a Slurm job: every node joins a Ray cluster that lives as long as the job; the first node drives.
#   sbatch recipes/clusters/slurm.sh recipes/glm-4.5.yaml /shared/runs/glm
# The run's folder must be on a disk that all nodes share, or s3://. A job that ran out of time continues when it is submitted
# again. Replace every REPLACE_… first (README.md); what may differ from job to job can be given to sbatch instead.
#SBATCH --job-name=tokenmill
#SBATCH --account=REPLACE_ACCOUNT
#SBATCH --partition=REPLACE_PARTITION
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=tokenmill-%j.log

set -euo pipefail

recipe=${1:?usage: sbatch slurm.sh RECIPE RUN}
run=${2:?usage: sbatch slurm.sh RECIPE RUN}
environment=${TOKENMILL_VENV:-REPLACE_VENV}

# shellcheck disable=SC1091  # a virtual environment that all nodes see
source "$environment/bin/activate"

# A token of this job alone: without one, whoever reaches a node's Ray ports may run code there.
umask 077
token_folder=$(mktemp -d "${SLURM_SUBMIT_DIR:-$PWD}/.ray-token-XXXXXX")
trap 'rm -rf "$token_folder"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$token_folder/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token_folder/token"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_ADDRESS="${nodes[0]}:$port"

# Scratch of the exchange: the node's own disk, never memory.
export TMPDIR=${TOKENMILL_SCRATCH:-REPLACE_LOCAL_SCRATCH}
export OMP_NUM_THREADS=1

srun --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 --kill-on-bad-exit=0 \
    ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "${#nodes[@]}" \
    --num-cpus "${SLURM_CPUS_ON_NODE:?}" --object-store-memory 268435456 \
    -- tokenmill run "$recipe" --out "$run" --executor ray --address "$RAY_ADDRESS" --plain
