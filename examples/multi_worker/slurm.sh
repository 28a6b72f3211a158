#!/bin/bash
# Two machines under SLURM: sbatch examples/multi_worker/slurm.sh
# Not run by the authors, who had no SLURM cluster; the script it starts was run on loopback.
#SBATCH --job-name=keras_tformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
# SIGTERM to the tasks (not to this shell) 120 s before the end: they save and exit.
#SBATCH --signal=TERM@120

port=12345
workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" |
  sed "s/.*/\"&:$port\"/" | paste -sd, -)
export workers

# SLURM_PROCID counts the tasks, which stand in the order of the host names.
srun --kill-on-bad-exit=1 bash -c '
  export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
  exec python examples/train_multi_worker.py --output "$SLURM_SUBMIT_DIR/multi_worker_output"
'
