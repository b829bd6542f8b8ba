# How training and scoring are started; everything else runs here. Choose one:
export train_cmd="audiossl" score_cmd="audiossl"                                  # this machine, one process
# export train_cmd="torchrun --nproc-per-node=4 -m audiossl" score_cmd="audiossl" # this machine, four GPUs
# export train_cmd="srun --gpus=1 audiossl" score_cmd="srun --gpus=1 audiossl"    # Slurm
