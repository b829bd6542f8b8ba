# How training is started; everything else runs here. Choose one:
export train_cmd="audiossl"                                  # this machine, one process
# export train_cmd="torchrun --standalone --nproc-per-node=4 -m audiossl" # this machine, four GPUs
# export train_cmd="srun --gpus=1 audiossl"                  # Slurm
