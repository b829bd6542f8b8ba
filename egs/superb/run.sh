#!/usr/bin/env bash
# SUPERB's table by all/run.sh, then the task ASR once more with an encoder that is fine-tuned instead of frozen, on the same data.
#
#   ./run.sh                                          synthetic speech; the encoder of ../mini/hubert is fine-tuned: run that first
#   ./run.sh --data DIR --published true --upstreams "fbank EXP" --init EXP --recipe ctc_adapters
#   ./run.sh --smoke true                             every stage on seconds of audio
#
# Data and experiments are those of all/run.sh, and relative paths are seen from all/.

stage=0
stop_stage=100
smoke=false
published=false
upstreams="fbank fbank+deltas random:hubert_nano"
tasks=
init=../../mini/hubert/exp/it2
recipe=ctc_adapters_nano
seed=
data=data
exp=exp
device=auto

cd "$(dirname "$0")" || exit
self=$PWD/$(basename "$0")
cd all || exit
. ./cmd.sh
. ../../utils/recipe.sh

if [ -z "$seed" ]; then  # the protocol's own, where it is followed
  if $published; then seed=1337; else seed=0; fi
fi

steps=()
if $smoke; then
  init=smoke/exp/init
  steps=(--train.max_steps 2 --train.save_every 2 --train.tensorboard false --data.num_workers 0)
elif [[ "$init" = */* ]] && [ ! -e "${init#random:}" ]; then
  echo "$0: $init: not found; run ../mini/hubert/run.sh, or name another encoder with --init" >&2
  exit 1
fi

# Stages 0 to 2. The smoke's directories are its own.
./run.sh --stage $stage --stop_stage $stop_stage --smoke $smoke --published $published --upstreams "$upstreams" --tasks "$tasks" --seed $seed \
  --data "$data" --exp "$exp" --device $device
if $smoke; then
  data=smoke/data
  exp=smoke/exp
fi
tuned=$exp/finetuned/$recipe

if stage 3 "$recipe on the data of the task asr"; then
  if $smoke; then
    audiossl pretrain wav2vec2_nano --data $data/asr/train --out $init --device $device "${steps[@]}"
    steps+=(--train.eval_every 2)
  fi
  $score_cmd finetune $recipe --init "$init" --data "$data/asr/train" --dev "$data/asr/dev" --out $tuned --resume --device $device \
    --train.seed $seed "${steps[@]}"
fi

if stage 4 "word error rate of the fine-tuned encoder"; then
  audiossl transcribe $tuned "$data/asr/test" --device $device > /dev/null
fi
