# How scores are computed; everything else runs here. Choose one:
export score_cmd="audiossl"                 # this machine
# export score_cmd="srun --gpus=1 audiossl" # Slurm
