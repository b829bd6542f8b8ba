#!/usr/bin/env bash
# LibriSpeech: HuBERT base as published (Hsu et al., 2021): two iterations on 960 h, then CTC on 100 h with adapters and in full.
#
#   ./run.sh --corpus DIR            DIR holds `LibriSpeech/`; see cmd.sh for how training is started on several GPUs
#   ./run.sh --smoke true            every stage on an imitation of the corpus
#
# The published global batch is 32 x 87.5 s: keep (processes x accumulate) at 32.

stage=0
stop_stage=100
smoke=false
corpus=
seed=0
data=data
exp=exp
device=auto
accumulate=1

. ./cmd.sh
. ./path.sh
. parse_options.sh
set -euo pipefail

train=train-960
labelled=train-clean-100
clusters=(100 500)
layer=6
small=()
steps_finetune=()
adapters=()
if $smoke; then
  data=smoke/data
  exp=smoke/exp
  corpus=smoke/corpus
  train=train-clean-100
  clusters=(5 5)
  layer=1
  small=(--encoder.num_layers 1 --encoder.dim 32 --encoder.ffn_dim 64 --encoder.num_heads 2 --encoder.conv_dim 16
    --encoder.position_kernel 16 --encoder.position_groups 4 --train.max_steps 4 --train.eval_every 2 --train.save_every 2
    --data.num_workers 1 --train.tensorboard false --optim.warmup_steps 1)
  steps_finetune=(--train.max_steps 4 --train.eval_every 2 --train.save_every 2 --data.num_workers 1 --train.tensorboard false)
  adapters=(--adapter.num_top_layers 1)
  rm -rf smoke
  audiossl prep librispeech --fake $corpus
fi
common="--dev $data/dev-clean --resume --device $device --train.seed $seed --train.accumulate $accumulate"

if [ $stage -le 0 ] && [ $stop_stage -ge 0 ]; then
  echo "Stage 0: Kaldi directories"
  [ -d $data ] || audiossl prep librispeech --corpus "$corpus" --out $data
  audiossl data validate $data/$train --no-check-audio
fi

if [ $stage -le 1 ] && [ $stop_stage -ge 1 ]; then
  echo "Stage 1: ${clusters[0]} units of MFCC, from a tenth of the utterances"
  [ -e $exp/mfcc ] || audiossl units fit --data $data/$train --out $exp/mfcc --clusters ${clusters[0]} --seed $seed
  audiossl units apply --data $data/$train $data/dev-clean --codebook $exp/mfcc --name mfcc_km100
fi

if [ $stage -le 2 ] && [ $stop_stage -ge 2 ]; then
  echo "Stage 2: HuBERT base, iteration 1 (250k updates)"
  $train_cmd pretrain hubert_base --data $data/$train --out $exp/it1 --units.clusters ${clusters[0]} $common "${small[@]}"
fi

if [ $stage -le 3 ] && [ $stop_stage -ge 3 ]; then
  echo "Stage 3: ${clusters[1]} units of layer $layer"
  [ -e $exp/it1_units ] || audiossl units fit --data $data/$train --encoder $exp/it1 --layer $layer --out $exp/it1_units \
    --clusters ${clusters[1]} --seed $seed
  audiossl units apply --data $data/$train $data/dev-clean --codebook $exp/it1_units --name it1_units
fi

if [ $stage -le 4 ] && [ $stop_stage -ge 4 ]; then
  echo "Stage 4: HuBERT base, iteration 2 (400k updates)"
  $train_cmd pretrain hubert_base_it2 --data $data/$train --out $exp/it2 --objective.labels '["it1_units"]' $common "${small[@]}"
fi

if [ $stage -le 5 ] && [ $stop_stage -ge 5 ]; then
  echo "Stage 5: CTC on $labelled: adapters, and in full"
  $train_cmd finetune ctc_adapters --init $exp/it2 --data $data/$labelled --out $exp/ctc_adapters $common "${steps_finetune[@]}" "${adapters[@]}"
  $train_cmd finetune ctc_full --init $exp/it2 --data $data/$labelled --out $exp/ctc_full $common "${steps_finetune[@]}"
fi

if [ $stage -le 6 ] && [ $stop_stage -ge 6 ]; then
  echo "Stage 6: word error rates"
  for recipe in ctc_adapters ctc_full; do
    for part in test-clean test-other; do
      [ ! -d $data/$part ] || audiossl transcribe $exp/$recipe $data/$part --out $exp/$recipe/$part.txt --overwrite > /dev/null
    done
  done
  audiossl report $exp/it1 $exp/it2 $exp/ctc_* --compare --title "HuBERT base on LibriSpeech" --out $exp/report.html
fi
