# How a job runs: empty is here. On a cluster, for example:
#   train_cmd="srun --gres=gpu:1 --cpus-per-task=8"
#   train_cmd="srun --nodes=1 --gres=gpu:4 --cpus-per-task=32 --signal=TERM@120"   with --nproc 4: Slurm asks for a
#     checkpoint two minutes before the time is up, and the same command continues from it
train_cmd=
probe_cmd=
