#!/usr/bin/env bash
# LibriSpeech: HuBERT base as published (Hsu et al., 2021): two iterations on 960 h, then CTC on 100 h with adapters and in full.
#
#   ./run.sh --corpus DIR            DIR holds `LibriSpeech/`; see cmd.sh for how training is started on several GPUs
#   ./run.sh --smoke true            every stage on an imitation of the corpus
#
# Published batches: processes x accumulate = 32 in pretraining (32 x 87.5 s), processes x accumulate_full = 8 in ctc_full.

stage=0
stop_stage=100
smoke=false
corpus=
seed=0
data=data
exp=exp
device=auto
accumulate=32      # of both iterations, for one process
accumulate_full=8  # of ctc_full, for one process; ctc_adapters keeps its recipe's

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

train=train-960
labelled=train-clean-100
clusters=(100 500)
layer=6
small=()
steps_finetune=()
adapters=()
if $smoke; then
  train=train-clean-100
  clusters=(5 5)
  accumulate=1
  accumulate_full=1
  layer=1
  small=(--encoder.num_layers 1 --encoder.dim 32 --encoder.ffn_dim 64 --encoder.num_heads 2 --encoder.conv_dim 16
    --encoder.position_kernel 16 --encoder.position_groups 4 --train.max_steps 4 --train.eval_every 2 --train.save_every 2
    --data.num_workers 1 --train.tensorboard false --optim.warmup_steps 1)
  steps_finetune=(--train.max_steps 4 --train.eval_every 2 --train.save_every 2 --data.num_workers 1 --train.tensorboard false)
  adapters=(--adapter.num_top_layers 1)
  begin_smoke librispeech
fi
common="--dev $data/dev-clean --resume --device $device --train.seed $seed"
pretrain="$train_cmd pretrain --data $data/$train $common --train.accumulate $accumulate"
tag= # units belong to the data directory, which other experiments share
[ "$exp $seed" = "exp 0" ] || tag=_${exp//[^A-Za-z0-9]/_}_$seed

if stage 0 "Kaldi directories"; then
  [ -d $data ] || audiossl prep librispeech --corpus "$corpus" --out $data
  audiossl data validate $data/$train --no-check-audio
fi

if stage 1 "${clusters[0]} units of MFCC, from a tenth of the utterances"; then
  [ -e $exp/mfcc ] || audiossl units fit --data $data/$train --out $exp/mfcc --clusters ${clusters[0]} --seed $seed --device $device
  audiossl units apply --data $data/$train $data/dev-clean --codebook $exp/mfcc --name mfcc_km100$tag --device $device
fi

if stage 2 "HuBERT base, iteration 1 (250k updates)"; then
  $pretrain hubert_base --out $exp/it1 --units.name mfcc_km100$tag --units.clusters ${clusters[0]} \
    --objective.labels "[\"mfcc_km100$tag\"]" "${small[@]}"
fi

if stage 3 "${clusters[1]} units of layer $layer"; then
  [ -e $exp/it1_units ] || audiossl units fit --data $data/$train --encoder $exp/it1 --layer $layer --out $exp/it1_units \
    --clusters ${clusters[1]} --seed $seed --device $device
  audiossl units apply --data $data/$train $data/dev-clean --codebook $exp/it1_units --name it1_units$tag --device $device
fi

if stage 4 "HuBERT base, iteration 2 (400k updates)"; then
  # With these settings of units, labels of another encoder than $exp/it1 are refused.
  $pretrain hubert_base_it2 --out $exp/it2 --units.name it1_units$tag --units.encoder $exp/it1 --units.layer $layer \
    --units.clusters ${clusters[1]} --objective.labels "[\"it1_units$tag\"]" "${small[@]}"
fi

if stage 5 "CTC on $labelled: adapters, and in full"; then
  $train_cmd finetune ctc_adapters --init $exp/it2 --data $data/$labelled --out $exp/ctc_adapters $common "${steps_finetune[@]}" "${adapters[@]}"
  $train_cmd finetune ctc_full --init $exp/it2 --data $data/$labelled --out $exp/ctc_full $common --train.accumulate $accumulate_full "${steps_finetune[@]}"
fi

if stage 6 "word error rates"; then
  for recipe in ctc_adapters ctc_full; do
    for part in test-clean test-other; do
      [ ! -d $data/$part ] || audiossl transcribe $exp/$recipe $data/$part --out $exp/$recipe/$part.txt --overwrite --device $device > /dev/null
    done
  done
  audiossl report $exp/it1 $exp/it2 $exp/ctc_* --compare --title "HuBERT base on LibriSpeech" --out $exp/report.html
fi
