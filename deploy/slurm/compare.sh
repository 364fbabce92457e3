#!/bin/bash
# A comparison of any size as a Slurm array: one shard a task. The plan is made once, and what is there is not run again.
#   bpfleet compare --scenario fleet.toml --nodes 100000 --kernel 5.10,6.12 --plan run.json
#   shards=$(sbatch --parsable --array=1-200 deploy/slurm/compare.sh run.json parts)
#   sbatch --dependency=afterok:"$shards" --wrap 'bpfleet compare --plan run.json --merge parts --report report.html'
#SBATCH --job-name=bpfleet-compare
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
plan=${1:?the plan}
parts=${2:?the directory for results}
exec bpfleet compare --plan "$plan" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --out "$parts" --jobs 1
