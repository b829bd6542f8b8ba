#!/usr/bin/env bash
# All speaker objectives on the synthetic `mini` corpus at equal steps: one encoder, one batch, one table of equal error rates.
#
#   ./run.sh                        everything, from nothing to the table
#   ./run.sh --data ../hubert/data  with the corpus that ../hubert has made already
#   ./run.sh --seeds "0 1 2"        several seeds, with their spread
#   ./run.sh --only "simclr moco"   some of the objectives
#   ./run.sh --smoke true           every objective for four steps on seconds of audio

smoke=false
seeds=0
steps=200
data=data
exp=exp
device=auto
workers=2
only=""

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

short=()
prototypes=136              # as many as there are training voices
group=64
heads="[512,512,128]"       # the publications' 2048: here the network below gives 128
if $smoke; then
  workers=0
  steps=4
  prototypes=4
  group=16
  heads="[32,32,16]"
  short=(--train.save_every 2 --train.tensorboard false --optim.warmup_steps 1)
  begin_smoke
  audiossl prep mini --out $data --prep.voices "[3,2,2]" --prep.sentences "[40,4,4]" \
    --prep.keywords "[20,20,20]" --prep.labelled_minutes 0.3
fi
[ -d $data/train ] || audiossl prep mini --out $data

dino="--objective.prototypes 1024 --objective.head_dim 512 --objective.bottleneck_dim 64 --objective.ema_steps $steps
  --objective.freeze_steps 20 --objective.crop_duration 1.2 --objective.local_duration 0.6 --objective.momentum 0.97"
sampling="--objective.num_clusters $prototypes --objective.queue_size 3360 --objective.start_epoch 2 --objective.clean_duration 2.4"
# What differs from an objective's published settings, which are made for a million utterances and hundreds of thousands of steps.
declare -A settings=(
  [simclr]="--objective.margin.name none"
  [simclr_margin]="--objective.margin.name additive --objective.margin.size 0.1"
  [moco]="--objective.queue_size 1024 --objective.momentum 0.99"
  [byol]="--objective.projector_dims [512,128] --objective.predictor_dim 512 --objective.ema_steps $steps --objective.momentum 0.97"
  [simsiam]="--objective.projector_dims $heads --objective.predictor_dim 64"
  [dino]="$dino"
  [vicreg]="--objective.projector_dims $heads"
  [vibcreg]="--objective.projector_dims $heads --objective.groups 8"
  [barlow_twins]="--objective.projector_dims $heads"
  [w_mse]="--objective.projector_dims [128,$((group / 4))] --objective.group_size $group"
  [combined]="--objective.projector_dims $heads"
  [swav]="--objective.projector_dims $heads --objective.prototypes $prototypes --objective.freeze_steps 20
    --objective.queue_size 512 --objective.queue_start_step $((steps / 2))"
  [deepcluster]="--objective.projector_dims $heads --objective.prototypes [$prototypes,$prototypes,$prototypes]"
  [cpc]=""
  [lim]=""
  [ssps]="$sampling"
  [ssps_dino]="$dino $sampling"
  [pseudo_label]="--objective.num_crops 2 --objective.gate 3 --objective.gate_after $((steps / 2))" # on clusters of simclr's embeddings
  [supervised_speaker]="--objective.num_crops 2" # with all labels: the upper bound
)
order="simclr simclr_margin moco byol simsiam dino vicreg vibcreg barlow_twins w_mse combined swav deepcluster cpc lim ssps ssps_dino
  pseudo_label supervised_speaker"
crops=(--objective.crop_duration 1.2 --data.crop_duration 2.4 --data.batch_seconds 240)

mkdir -p $exp
[ -e $exp/steps ] || echo $steps > $exp/steps
if [ "$(cat $exp/steps)" != $steps ]; then
  echo "$0: --steps $steps: $exp holds runs of $(cat $exp/steps); choose another --exp" >&2
  exit 2
fi
audiossl trials $data/test --out $exp/trials
for seed in $seeds; do
  for name in ${only:-$order}; do
    folder=$exp/s$seed/$name
    [ -e $folder/verify/results.json ] && continue
    recipe=$exp/recipes/$name.toml
    python ../../utils/recipe_with_objective.py simclr_nano ${name%_margin} $recipe
    mkdir -p $folder && rm -f $folder/stopped
    told=()
    if [ $name = pseudo_label ]; then
      told=(--objective.column utt2cluster_$seed)
      audiossl embed $exp/s$seed/simclr/encoder $data/train --out $folder/clustered --seed $seed --num-workers $workers --device $device
      audiossl cluster $folder/clustered --clusters $prototypes --out $data/train/utt2cluster_$seed --seed $seed --overwrite
    fi
    if ! $train_cmd pretrain $recipe --data $data/train --out $folder/encoder --resume --device $device --train.seed $seed \
      --data.num_workers $workers --train.max_steps $steps "${crops[@]}" ${settings[$name]} "${told[@]}" "${short[@]}"; then
      echo "$name, seed $seed: stopped; the reason is above" >&2
      touch $folder/stopped
      continue
    fi
    audiossl embed $folder/encoder $data/test --out $folder/embeddings --seed $seed --num-workers $workers --device $device
    audiossl verify --trials $exp/trials --embeddings $folder/embeddings --out $folder/verify --seed $seed
  done
  folder=$exp/s$seed/untrained
  if [ -z "$only" ] && [ ! -e $folder/verify/results.json ]; then
    audiossl embed random:$exp/s$seed/simclr/encoder $data/test --out $folder/embeddings --seed $seed --num-workers $workers \
      --device $device
    audiossl verify --trials $exp/trials --embeddings $folder/embeddings --out $folder/verify --seed $seed
  fi
done
python ../../utils/seed_table.py $exp/s*
for folder in $exp/s*/*/stopped; do
  if [ -e $folder ]; then
    echo "No result, stopped: $(dirname $folder); its log says why"
  fi
done
