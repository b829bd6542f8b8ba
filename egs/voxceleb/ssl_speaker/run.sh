#!/usr/bin/env bash
# VoxCeleb: SimCLR with an additive margin, or another objective, on VoxCeleb2 without labels, then VoxCeleb1-O, E and H, raw and with AS-norm.
#
#   ./run.sh --voxceleb2 DIR --voxceleb1 DIR --musan DIR --rirs DIR     see cmd.sh for how training is started on several GPUs
#   ./run.sh ... --recipe moco_am                                       another recipe for speakers, or a TOML file
#   ./run.sh ... --label_efficient true                                 then also: 1 to 100 % of VoxCeleb2's labels; see label_recipe
#   ./run.sh --smoke true                                               every stage on imitations of the corpora
#
# The published batch is 200 utterances in all: with several processes, divide data.batch_seconds by their number.

stage=0
stop_stage=100
smoke=false
label_efficient=false
label_recipe=aam_speaker   # with the encoder of --recipe
label_steps=42660          # of each training on labels: 10 epochs of all; our choice
voxceleb1=
voxceleb2=
musan=
rirs=
audio=
seed=0
data=data
exp=exp
recipe=simclr_am_785
device=auto
workers=8
cohort=20000

. ./cmd.sh
. ./path.sh
. parse_options.sh
set -euo pipefail

name=$(basename $recipe .toml)
short=()
shorter=()
top=300
crops=(--crops 10 --crop-duration 3.5)
if $smoke; then
  data=smoke/data
  exp=smoke/exp
  voxceleb1=smoke/voxceleb1 voxceleb2=smoke/voxceleb2 musan=smoke/musan rirs=smoke/rirs
  workers=0
  cohort=8
  top=4
  crops=(--crops 2 --crop-duration 0.6)
  short=(--train.max_steps 4 --train.save_every 2 --train.tensorboard false --encoder.blocks "[1,1,1,1]" --encoder.embedding_dim 16
    --objective.crop_duration 0.4 --data.crop_duration 0.8 --data.batch_seconds 6.4)
  shorter=(--train.save_every 2 --train.tensorboard false --objective.crop_duration 0.4 --data.crop_duration 0.4 --data.batch_seconds 3.2)
  label_steps=4
  rm -rf smoke
  for corpus in voxceleb1 voxceleb2 musan; do
    audiossl prep $corpus --fake smoke/$corpus
  done
  audiossl prep rirs_noises --fake $rirs
fi
augment=(--data.augment.reverb_dir $data/rirs/simulated_rirs
  --data.augment.noise_dirs "[\"$data/musan/noise\",\"$data/musan/speech\",\"$data/musan/music\"]")
kept=()   # where ffmpeg's work is kept, so that an interrupted preparation goes on
[ -z "$audio" ] || kept=(--prep.audio "$audio")

if [ $stage -le 0 ] && [ $stop_stage -ge 0 ]; then
  echo "Stage 0: Kaldi directories"
  [ -d $data/voxceleb1 ] || audiossl prep voxceleb1 --corpus "$voxceleb1" --out $data/voxceleb1
  [ -d $data/voxceleb2 ] || audiossl prep voxceleb2 --corpus "$voxceleb2" --out $data/voxceleb2 "${kept[@]}"
  [ -d $data/musan ] || audiossl prep musan --corpus "$musan" --out $data/musan
  [ -d $data/rirs ] || audiossl prep rirs_noises --corpus "$rirs" --out $data/rirs
fi

if [ $stage -le 1 ] && [ $stop_stage -ge 1 ]; then
  echo "Stage 1: $name on VoxCeleb2"
  $train_cmd pretrain $recipe --data $data/voxceleb2/dev --out $exp/$name --resume --device $device --train.seed $seed \
    --data.num_workers $workers "${augment[@]}" "${short[@]}"
fi

if [ $stage -le 2 ] && [ $stop_stage -ge 2 ]; then
  echo "Stage 2: embeddings of VoxCeleb1 and of a cohort: utterances drawn from the training data, for its speakers are not known"
  [ -d $data/cohort ] || audiossl data subset $data/voxceleb2/dev $data/cohort --random $cohort --seed $seed
  audiossl embed $exp/$name $data/voxceleb1/all --out $exp/embeddings_$name/voxceleb1 --num-workers $workers --device $device "${crops[@]}"
  audiossl embed $exp/$name $data/cohort --out $exp/embeddings_$name/cohort --num-workers $workers --device $device "${crops[@]}"
fi

if [ $stage -le 3 ] && [ $stop_stage -ge 3 ]; then
  echo "Stage 3: VoxCeleb1-O, E and H (cleaned), raw and with AS-norm"
  for list in o e h; do
    scored="--trials $data/voxceleb1/all/trials_${list}_cleaned --embeddings $exp/embeddings_$name/voxceleb1"
    echo "$list, raw:"
    audiossl verify $scored --out $exp/verify_$name/raw_$list
    echo "$list, AS-norm:"
    audiossl verify $scored --cohort $exp/embeddings_$name/cohort --norm as --top $top --out $exp/verify_$name/as_norm_$list
  done
  audiossl report $exp/$name $exp/verify_$name/* --compare --title "$name on VoxCeleb" --out $exp/report.html
fi

if $label_efficient && [ $stage -le 4 ] && [ $stop_stage -ge 4 ]; then
  echo "Stage 4: labels of 1, 2, 5, 10 and 100 % of each speaker's utterances, the smaller part within the larger, from $name and from nothing"
  python "$root/egs/utils/recipe_with_encoder.py" $label_recipe $exp/$name $exp/labels_$name.toml
  for percent in 1 2 5 10 100; do
    part=$exp/labels_$name/$percent
    labelled="$train_cmd pretrain $exp/labels_$name.toml --data $data/voxceleb2/dev --resume --device $device --train.seed $seed
      --objective.seed $seed --objective.fraction $(printf '%d.%02d' $((percent / 100)) $((percent % 100))) --data.num_workers $workers"
    labelled="$labelled --train.max_steps $label_steps"
    $labelled --out $part/$name --init $exp/$name --optim.peak_lr 1e-4 "${augment[@]}" "${shorter[@]}"
    $labelled --out $part/scratch "${augment[@]}" "${shorter[@]}"
  done
fi

if $label_efficient && [ $stage -le 5 ] && [ $stop_stage -ge 5 ]; then
  echo "Stage 5: VoxCeleb1-O, E and H (cleaned) of these models, raw"
  scored=()
  for percent in 1 2 5 10 100; do
    for source in scratch $name; do
      part=$exp/labels_$name/$percent
      audiossl embed $part/$source $data/voxceleb1/all --out $part/embeddings_$source --num-workers $workers --device $device "${crops[@]}"
      for list in o e h; do
        scored+=("$part/verify_${source}_$list")
        echo "$percent % of the labels, from $source, $list:"
        audiossl verify --trials $data/voxceleb1/all/trials_${list}_cleaned --embeddings $part/embeddings_$source --out "${scored[-1]}"
      done
    done
  done
  audiossl report "${scored[@]}" --compare --title "Few labels on VoxCeleb, from $name" --out $exp/labels_$name.html
fi
