# How a job runs: empty is here; on a cluster, for example: train_cmd="srun --gres=gpu:1 --cpus-per-task=4"
train_cmd=
probe_cmd=
