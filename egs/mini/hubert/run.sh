#!/usr/bin/env bash
# The whole chain on the synthetic `mini` corpus: units, two iterations of HuBERT, fine-tuning with adapters, probes, a report.
#
#   ./run.sh                       everything, from nothing to the table
#   ./run.sh --stage 4             from stage 4 on; finished work is kept
#   ./run.sh --seed 1 --exp exp/s1 another seed, in another place
#   ./run.sh --full true           also fine-tunes the whole encoder, to compare with the adapters
#   ./run.sh --updates 6000 --exp exp/long  a longer second iteration
#   ./run.sh --voices 136 --exp exp/all     labels of all training voices instead of a few
#   ./run.sh --rate 50 --exp exp/50hz       50 frames a second instead of 25, at twice the time: what searches, or spells, wants them
#   ./run.sh --smoke true          every stage on seconds of audio

stage=0
stop_stage=100
smoke=false
full=false
updates=1500
voices=24
rate=25
seed=0
data=data
exp=exp
device=auto

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

prep=()
short=()
steps_first=(--train.max_steps 300)
steps_second=(--train.max_steps $updates)
steps_finetune=(--train.max_steps 1000 --train.eval_every 250 --train.save_every 250)
# Few labelled voices: each is heard at many speeds, which are vocal tracts of many lengths too, with pieces left out.
steps_finetune+=(--data.augment.speed_probability 1.0 --data.augment.speed_factors "[0.85,0.9,0.95,1.0,1.05,1.1,1.15]"
  --finetune.mask_prob 0.3 --finetune.mask_length 3 --finetune.same_count false --finetune.channel_mask_prob 0.3
  --finetune.channel_mask_length 12 --task.dropout 0.1 --optim.weight_decay 0.01)
probe=()
if $smoke; then
  voices=2
  prep=(--prep.voices "[3,2,2]" --prep.sentences "[40,4,4]" --prep.keywords "[40,20,20]" --prep.labelled_minutes 0.3)
  short=(--data.num_workers 1 --train.tensorboard false)
  steps_first=(--train.max_steps 6 --train.eval_every 3 --train.save_every 3 --encoder.num_layers 2)
  steps_second=("${steps_first[@]}")
  steps_finetune=(--train.max_steps 4 --train.eval_every 2 --train.save_every 2)
  probe=(--probe.steps 20)
  begin_smoke
fi
case $rate in
  25) ;;
  50)  # masks last as long as at 25
    steps_first+=(--encoder.strides "[2,1]" --objective.mask_length 6)
    steps_second+=(--encoder.strides "[2,1]" --objective.label_rate 50 --objective.mask_length 10)
    ;;
  *)
    echo "$0: --rate $rate: give 25 or 50" >&2
    exit 2
    ;;
esac
clusters=$($smoke && echo 10 || echo 100)
layer=1
pretrain="$train_cmd pretrain --data $data/train --dev $data/dev --resume --device $device --train.seed $seed --encoder.mean_norm true"
labelled=$data/train_${voices}_voices
finetune="$train_cmd finetune --data $labelled --dev $data/dev --resume --device $device --train.seed $seed"
# A model this small keeps few cores busy: two runs side by side, with half of the cores each, take little more time than one.
half=${OMP_NUM_THREADS:-$(python -c 'import os; print(max(1, (os.cpu_count() or 1) // 2))')}
tag=$seed # units belong to the data directory, which other experiments share
[ $exp = exp ] || tag=${exp//[^A-Za-z0-9]/_}_$seed
mkdir -p $exp/log
options="--updates $updates --voices $voices --rate $rate --seed $seed"
[ -e $exp/options ] || echo "$options" > $exp/options
if [ "$(cat $exp/options)" != "$options" ]; then
  echo "$0: $exp was made with $(cat $exp/options), not $options; choose another --exp" >&2
  exit 2
fi
# What runs in the background has a process group of its own (set -m), which ends with the recipe.
trap 'for job in $(jobs -p); do kill -- -$job 2> /dev/null || true; done' EXIT

if stage 0 "synthesise the corpus"; then
  [ -d $data/train ] || audiossl prep mini --out $data "${prep[@]}"
  audiossl data validate $data/train
fi

if stage 1 "k-means units of MFCC"; then
  [ -e $exp/mfcc ] || audiossl units fit --data $data/train --out $exp/mfcc --clusters $clusters --seed $seed --device $device
  audiossl units apply --data $data/train $data/dev $data/test --codebook $exp/mfcc --name mfcc_$tag --device $device
fi

if stage 2 "HuBERT, iteration 1, on the units of MFCC"; then
  $pretrain hubert_nano --out $exp/it1 --objective.labels "[\"mfcc_$tag\"]" "${short[@]}" "${steps_first[@]}"
fi

if stage 3 "k-means units of layer $layer of iteration 1"; then
  [ -e $exp/it1_units ] || audiossl units fit --data $data/train --encoder $exp/it1 --layer $layer --out $exp/it1_units \
    --clusters $clusters --seed $seed --device $device
  audiossl units apply --data $data/train $data/dev $data/test --codebook $exp/it1_units --name it1_$tag --device $device
fi

if stage 4 "HuBERT, iteration 2"; then
  $pretrain hubert_nano_it2 --out $exp/it2 --objective.labels "[\"it1_$tag\"]" "${short[@]}" "${steps_second[@]}"
fi

if stage 5 "what the units know of phones (the same number of units from each)"; then
  [ -e $exp/it2_units ] || audiossl units fit --data $data/train --encoder $exp/it2 --layer $layer --out $exp/it2_units \
    --clusters $clusters --seed $seed --device $device
  audiossl units apply --data $data/test --codebook $exp/it2_units --name it2_$tag --device $device
  for name in mfcc it1 it2; do
    audiossl units quality --data $data/test --name ${name}_$tag --out $exp/quality --label "$name units"
  done
fi

if stage 6 "word recognition with CTC from the labels of $voices voices: adapters in the pretrained and in a random encoder"; then
  [ -d $labelled ] || audiossl data subset $data/train $labelled --speakers $voices
  # Words last several frames, which the frozen attention was not made to gather: the adapters hear neighbours too.
  adapters="$finetune ctc_adapters_nano --adapter.kernel 15 --adapter.bottleneck 80"
  set -m
  OMP_NUM_THREADS=$half $adapters --init random:$exp/it2 --out $exp/asr_random "${short[@]}" "${steps_finetune[@]}" > $exp/log/asr_random.log 2>&1 &
  set +m
  echo "In the random encoder at the same time: $(realpath $exp)/log/asr_random.log"
  OMP_NUM_THREADS=$half $adapters --init $exp/it2 --out $exp/asr "${short[@]}" "${steps_finetune[@]}"
  wait $! || { tail -n 3 $exp/log/asr_random.log >&2; exit 1; }
  if $full; then
    $finetune ctc_full_nano --init $exp/it2 --out $exp/asr_full "${short[@]}" "${steps_finetune[@]}"
  fi
fi

if stage 7 "word error rate on unseen voices and sentences"; then
  for name in asr asr_random asr_full; do
    if [ -e $exp/$name ]; then
      audiossl transcribe $exp/$name $data/test --out $exp/$name/test.txt --overwrite --device $device > /dev/null
    fi
  done
fi

if stage 8 "probes for keywords (unseen voices) and speakers, against filterbanks"; then
  probes() { # SOURCE NAME
    OMP_NUM_THREADS=$half audiossl probe $1 --task keyword --train $data/keywords_train --dev $data/keywords_dev --test $data/keywords_test \
      --out $exp/probe_keyword_$2 --seed $seed --device $device "${probe[@]}" &&
      OMP_NUM_THREADS=$half audiossl probe $1 --task speaker --train $data/train --split 0.7/0.1/0.2 \
        --out $exp/probe_speaker_$2 --seed $seed --device $device "${probe[@]}"
  }
  set -m
  { probes random:$exp/it2 random && probes fbank fbank; } > $exp/log/probes.log 2>&1 &
  set +m
  probes $exp/it2 it2
  wait $! || { tail -n 3 $exp/log/probes.log >&2; exit 1; }
  echo "Of the random encoder and of filterbanks:"
  cat $exp/log/probes.log
fi

if stage 9 "report"; then
  audiossl report $exp/quality $exp/it1 $exp/it2 $exp/asr* $exp/probe_* --compare --title "HuBERT on mini" --out $exp/report.html \
    --data $data/test --units it2_$tag
  echo "The same table with plots: $(realpath $exp)/report.html"
  echo "Transcribe your own recording: audiossl transcribe $(realpath $exp)/asr RECORDING.wav"
fi
