#!/usr/bin/env bash
# Arabic Speech Commands: HuBERT on 18 speakers without their labels, then a linear probe for 40 keywords, scored on 6 unseen speakers.
#
#   ./run.sh --corpus DIR            DIR holds `dataset/`, `train.csv`, `val.csv`
#   ./run.sh --corpus DIR --seed 1 --exp exp/s1
#   ./run.sh --smoke true            every stage on an imitation of the corpus

stage=0
stop_stage=100
smoke=false
corpus=
seed=0
data=data
exp=exp
device=auto

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

short=()
steps_pretrain=(--train.max_steps 2500)
clusters=100
probe=()
if $smoke; then
  clusters=10
  short=(--data.num_workers 1 --train.tensorboard false)
  steps_pretrain=(--train.max_steps 4 --train.save_every 2 --encoder.num_layers 2)
  probe=(--probe.steps 20)
  begin_smoke arabic_speech_commands
fi
# Single words need no help from visible frames: the published loss (masked frames only, spans of 200 ms), and pre-norm, which bears a
# higher learning rate. Chosen on the two development speakers.
steps_pretrain+=(--objective.unmasked_weight 0 --objective.mask_length 5 --encoder.pre_norm true --optim.peak_lr 2e-3)
# The encoder hears all 18 training speakers; the probe learns from 16 of them, and the other two choose its learning rate.
pretrain="$train_cmd pretrain hubert_nano --data $data/all_train --resume --device $device --train.seed $seed --train.eval_every 0"

if stage 0 "Kaldi directories"; then
  [ -d $data ] || audiossl prep arabic_speech_commands --corpus "$corpus" --out $data
  audiossl data validate $data/all_train
fi

if stage 1 "k-means units of MFCC"; then
  [ -e $exp/mfcc ] || audiossl units fit --data $data/all_train --out $exp/mfcc --clusters $clusters --seed $seed --device $device
  audiossl units apply --data $data/all_train --codebook $exp/mfcc --name mfcc_$seed --device $device
fi

if stage 2 "HuBERT on these units"; then
  $pretrain --out $exp/it1 --objective.labels "[\"mfcc_$seed\"]" "${short[@]}" "${steps_pretrain[@]}"
fi

if stage 3 "keyword probe on unseen speakers, of the encoder, a random one and filterbanks"; then
  for source in $exp/it1 random:$exp/it1 fbank; do
    name=$(basename $source)
    case $source in random:*) name=random ;; esac
    audiossl probe $source --task keyword --train $data/train --dev $data/dev --test $data/test --out $exp/probe_$name \
      --seed $seed --device $device "${probe[@]}"
  done
fi

if stage 4 "report"; then
  audiossl report $exp/it1 $exp/probe_* --compare --title "HuBERT on Arabic Speech Commands" --out $exp/report.html
fi
