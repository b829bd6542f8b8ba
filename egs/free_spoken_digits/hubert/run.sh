#!/usr/bin/env bash
# Free Spoken Digits: HuBERT on its training takes, then digit strings recognised with adapters, on the published test takes.
#
#   ./run.sh --corpus DIR            DIR holds `recordings/`
#   ./run.sh --corpus DIR --seed 1 --exp exp/s1
#   ./run.sh --corpus DIR --ways true  also the whole encoder, low-rank updates and the upper layers, to compare with the adapters
#   ./run.sh --smoke true            every stage on an imitation of the corpus

stage=0
stop_stage=100
smoke=false
ways=false
corpus=
seed=0
data=data
exp=exp
device=auto

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

short=()
steps_pretrain=(--train.max_steps 800)
steps_finetune=(--train.max_steps 1500 --train.eval_every 300 --train.save_every 300)
clusters=100
if $smoke; then
  clusters=10
  short=(--data.num_workers 1 --train.tensorboard false)
  steps_pretrain=(--train.max_steps 4 --train.eval_every 2 --train.save_every 2 --encoder.num_layers 2)
  steps_finetune=(--train.max_steps 4 --train.eval_every 2 --train.save_every 2)
  begin_smoke free_spoken_digits
fi
pretrain="$train_cmd pretrain hubert_nano --data $data/train_strings --dev $data/dev_strings --resume --device $device --train.seed $seed"
finetune="$train_cmd finetune --data $data/train_strings --dev $data/dev_strings --resume --device $device --train.seed $seed"

if stage 0 "single digits and digit strings as Kaldi directories"; then
  [ -d $data ] || audiossl prep free_spoken_digits --corpus "$corpus" --out $data
  audiossl data validate $data/train_strings
fi

if stage 1 "k-means units of MFCC"; then
  [ -e $exp/mfcc ] || audiossl units fit --data $data/train_strings --out $exp/mfcc --clusters $clusters --seed $seed --device $device
  audiossl units apply --data $data/train_strings $data/dev_strings --codebook $exp/mfcc --name mfcc_$seed --device $device
fi

if stage 2 "HuBERT on these units"; then
  $pretrain --out $exp/it1 --objective.labels "[\"mfcc_$seed\"]" "${short[@]}" "${steps_pretrain[@]}"
fi

if stage 3 "recognition of digit strings with adapters, in the pretrained and in a random encoder"; then
  # Words last several frames, which the frozen attention was not made to gather: the adapters hear neighbours too.
  adapters="$finetune ctc_adapters_nano --adapter.kernel 15 --adapter.bottleneck 80"
  $adapters --init $exp/it1 --out $exp/asr "${short[@]}" "${steps_finetune[@]}"
  $adapters --init random:$exp/it1 --out $exp/asr_random "${short[@]}" "${steps_finetune[@]}"
  if $ways; then
    $finetune ctc_full_nano --init $exp/it1 --out $exp/asr_full "${short[@]}" "${steps_finetune[@]}"
    $finetune ctc_full_nano --init $exp/it1 --out $exp/asr_top2 --adapter.name top_layers --adapter.num_top_layers 2 \
      "${short[@]}" "${steps_finetune[@]}"
    $finetune ctc_adapters_nano --init $exp/it1 --out $exp/asr_lora --adapter.name lora --adapter.rank 16 --adapter.alpha 16 \
      --adapter.targets '["query","key","value","out","ffn_in","ffn_out"]' "${short[@]}" "${steps_finetune[@]}"
  fi
fi

if stage 4 "word error rate on the published test takes"; then
  for name in asr asr_random asr_full asr_top2 asr_lora; do
    if [ -e $exp/$name ]; then
      audiossl transcribe $exp/$name $data/test_strings --out $exp/$name/test.txt --overwrite --device $device > /dev/null
    fi
  done
  audiossl report $exp/it1 $exp/asr* --compare --title "HuBERT on Free Spoken Digits" --out $exp/report.html
fi
