#!/usr/bin/env bash
# A sweep over many tasks, and a training that goes on after preemption, with SLURM. Run `make setup`
# and fetch the data first; then, from the repository's root:
#
#   sbatch --array=0-7 docs/cluster/slurm.sh part 8 pan.reproduce --table3 --reduced --jobs 4
#   sbatch --array=0-7 docs/cluster/slurm.sh part 8 mdma.simulate --type t --jets 50000
#   sbatch docs/cluster/slurm.sh train runs/began/paper began.train
#
# When all parts are through, the same command without --part joins and draws what they found:
#   .venv/bin/python -m pan.reproduce --table3 --reduced
# To repeat task 3 alone: sbatch --array=3, and `part 8` as before.
#
#SBATCH --job-name=gan
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:1
#SBATCH --time=08:00:00
# SIGTERM, 120 s before the time is over or when the job is preempted, lets a training finish its
# step, save and end with code 143. The job then queues again, and goes on where it stood.
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

words=("$@")
job=$SLURM_JOB_ID
if [ "${1-}" = part ]; then
    words=(part "$SLURM_ARRAY_TASK_ID" "${@:2}")
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID  # the last task's own id is the whole array's
fi

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-4}  # srun doesn't take it over since 22.05
code=0
srun docs/cluster/task.sh "${words[@]}" || code=$?
if [ "$code" -eq 143 ]; then scontrol requeue "$job"; fi
exit "$code"
