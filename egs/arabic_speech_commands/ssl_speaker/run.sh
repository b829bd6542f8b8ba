#!/usr/bin/env bash
# Arabic Speech Commands: SimCLR on 18 speakers without their labels, then verification of 6 unseen speakers who never say the same word.
#
#   ./run.sh --corpus DIR            DIR holds `dataset/`, `train.csv`, `val.csv`
#   ./run.sh --corpus DIR --seed 1 --exp exp/s1
#   ./run.sh --label_efficient true  then also: some shares of the labels of these 18 speakers, from SimCLR's encoder, also with SupCon, and from a random one
#   ./run.sh --smoke true            every stage on an imitation of the corpus

stage=0
stop_stage=100
smoke=false
label_efficient=   # false; true with --smoke
percents="1 2 5 10 100"
corpus=
seed=0
data=data
exp=exp
device=auto
workers=2

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder
flag label_efficient $smoke

short=()
unseen=test
bootstrap=200
top=300
if $smoke; then
  unseen=all_train   # one speaker alone is in the imitation's val.csv, and cannot be told from another
  workers=0
  bootstrap=0
  top=4
  percents="10 100"
  short=(--train.max_steps 4 --train.save_every 2 --train.tensorboard false --optim.warmup_steps 1)
  begin_smoke arabic_speech_commands
fi
labelled="$train_cmd pretrain aam_nano --data $data/all_train --resume --device $device --train.seed $seed --objective.seed $seed"
sup_con="--objective.loss sup_con --objective.num_crops 2 --objective.scale 10 --objective.margin.name none --data.crop_duration 1.2 --data.batch_seconds 76.8"
pretrain="$train_cmd pretrain simclr_nano --data $data/all_train --resume --device $device --train.seed $seed --data.num_workers $workers"
trials=$data/$unseen/trials

if stage 0 "Kaldi directories"; then
  [ -d $data ] || audiossl prep arabic_speech_commands --corpus "$corpus" --out $data
  audiossl data validate $data/all_train
fi

if stage 1 "trials: all pairs of clips of unseen speakers with different words, so that the word tells nothing"; then
  audiossl trials $data/$unseen --out $trials --different utt2keyword
fi

if stage 2 "SimCLR, without a margin and with the additive one of 0.1"; then
  $pretrain --out $exp/simclr "${short[@]}"
  $pretrain --out $exp/simclr_margin --objective.margin.name additive --objective.margin.size 0.1 "${short[@]}"
fi

if stage 3 "embeddings of the unseen speakers, and of the training clips, the cohort of AS-norm"; then
  for source in $exp/simclr $exp/simclr_margin random:$exp/simclr; do
    name=$(basename $source)
    case $source in random:*) name=random ;; esac
    audiossl embed $source $data/$unseen --out $exp/embeddings/$name --seed $seed --num-workers $workers --device $device
    audiossl embed $source $data/all_train --out $exp/embeddings/${name}_cohort --seed $seed --num-workers $workers --device $device
  done
fi

if stage 4 "equal error rates, raw and with AS-norm"; then
  resample=()
  [ $bootstrap -eq 0 ] || resample=(--bootstrap $bootstrap --utt2spk $data/$unseen/utt2spk)
  for name in random simclr simclr_margin; do
    echo "$name:"
    audiossl verify --trials $trials --embeddings $exp/embeddings/$name --out $exp/verify_$name --seed $seed "${resample[@]}"
    echo "$name, AS-norm:"
    audiossl verify --trials $trials --embeddings $exp/embeddings/$name --cohort $exp/embeddings/${name}_cohort --norm as --top $top \
      --out $exp/verify_${name}_as_norm --seed $seed
  done
  audiossl report $exp/simclr $exp/simclr_margin $exp/verify_* --compare --title "SimCLR on Arabic Speech Commands" --out $exp/report.html
fi

if $label_efficient && stage 5 "labels of $percents % of each speaker's clips, the smaller part within the larger, from SimCLR and from nothing"; then
  for percent in $percents; do
    few="--objective.fraction $(printf '%d.%02d' $((percent / 100)) $((percent % 100))) --data.num_workers $workers"
    $labelled $few --out $exp/labels/$percent/simclr --init $exp/simclr --optim.peak_lr 1e-4 "${short[@]}"
    $labelled $few --out $exp/labels/$percent/simclr_sup_con --init $exp/simclr --optim.peak_lr 1e-4 $sup_con "${short[@]}"
    $labelled $few --out $exp/labels/$percent/scratch "${short[@]}"
  done
fi

if $label_efficient && stage 6 "equal error rates of the unseen speakers"; then
  scored=($exp/verify_random $exp/verify_simclr)
  for percent in $percents; do
    for name in scratch simclr simclr_sup_con; do
      part=$exp/labels/$percent
      scored+=("$part/verify_$name")
      audiossl embed $part/$name $data/$unseen --out $part/embeddings_$name --num-workers $workers --device $device
      echo "$percent % of the labels, from $name:"
      audiossl verify --trials $trials --embeddings $part/embeddings_$name --out "${scored[-1]}" --seed $seed
    done
  done
  audiossl report "${scored[@]}" --compare --title "Few labels on Arabic Speech Commands" --out $exp/labels.html
fi
