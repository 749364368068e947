#!/bin/bash
# A study, or one large model, under Slurm. qscale must be on the PATH of every node, and folders on a file
# system that all of them share.
#
#   sbatch examples/slurm.sh study.yaml FOLDER              one node, as many workers as it has cores or GPUs
#   sbatch --nodes=4 examples/slurm.sh study.yaml FOLDER    the same on each of four nodes, all on one study
#   sbatch --nodes=2 --gpus-per-node=8 examples/slurm.sh train --size paper-595m --tokens 10B --out FOLDER
#                                                           one model, divided among sixteen GPUs
#
#SBATCH --job-name=qscale
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is up the drivers are asked to stop: jobs end their step and leave a checkpoint.

set -euo pipefail

if [[ $# -lt 2 ]]; then
    echo "usage: sbatch $0 STUDY.yaml FOLDER, or: sbatch $0 train OPTIONS of qscale train" >&2
    exit 2
fi
nodes=${SLURM_JOB_NUM_NODES:-1}
# srun takes --cpus-per-task from sbatch in some versions of Slurm and not in others.
on_each=(srun "--nodes=$nodes" "--ntasks=$nodes" --ntasks-per-node=1 "--cpus-per-task=${SLURM_CPUS_PER_TASK:-1}")

if [[ $1 == train ]]; then
    shift
    # Not `| head`: whoever writes more lines than are read dies of SIGPIPE, and pipefail ends the script.
    read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    # Single quotes: each node has a rank of its own.
    exec "${on_each[@]}" bash -c '
        exec accelerate launch --use_fsdp --fsdp_version 2 --main_process_ip "$0" --main_process_port 29500 \
            --num_machines "$SLURM_JOB_NUM_NODES" --machine_rank "$SLURM_NODEID" \
            --num_processes "$((SLURM_JOB_NUM_NODES * SLURM_GPUS_ON_NODE))" -m qscale train "$@"
    ' "$first" "$@"
fi

study=$1 folder=$2
options=("${@:3}")
[[ -n ${SLURM_GPUS_ON_NODE:-} ]] && options+=(--device cuda)
# The limit of the job is not the memory that the node has free.
[[ -n ${SLURM_MEM_PER_NODE:-} ]] && options+=(--memory "${SLURM_MEM_PER_NODE}M")

code=0
# The first driver makes the folder and reads the corpus; the others join when that is done. A lock on each
# job keeps them apart, and each goes on until nothing is left.
"${on_each[@]}" bash -c '
    study=$0 folder=$1
    if [[ ${SLURM_PROCID:-0} != 0 ]]; then
        for _ in {1..900}; do [[ -e $folder/corpus.json ]] && break; sleep 2; done
        exec qscale sweep run "$folder" "${@:2}"
    fi
    exec qscale sweep run "$study" --out "$folder" "${@:2}"
' "$study" "$folder" ${options[@]+"${options[@]}"} || code=$?

# 130: stopped with work left. The same job goes on from its checkpoints when it has its turn again.
if [[ $code == 130 && -n ${SLURM_JOB_ID:-} ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
