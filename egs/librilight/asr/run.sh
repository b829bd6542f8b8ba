#!/usr/bin/env bash
# Libri-Light's limited supervision: CTC on 10 minutes, 1 hour, 10 hours and, of LibriSpeech, 100 hours, read greedily and with a 4-gram.
#
#   ./run.sh --corpus DIR --limited DIR --init EXP
#                                      the first DIR holds `LibriSpeech/`, the second `librispeech_finetuning/`; EXP is a pretrained encoder
#                                      (an experiment, or a checkpoint that `audiossl import` knows); the 4-gram is made of --lm_text FILE,
#                                      else of the transcripts of all training parts that are there
#   ./run.sh --lm FILE --lexicon FILE  instead, a model of words as it is, such as the official 4-gram of openslr.org/11 (published with --beam
#                                      1500), and its words with their characters; `audiossl lm librispeech-vocab.txt --order 1 --out vocab.arpa
#                                      --lexicon FILE` writes these
#   ./run.sh --sizes "10min 1h"        only these
#   ./run.sh --smoke true              every stage on imitations of the corpora
#
# Published, not rerun here, test-clean / test-other; the recipes say from where:
#                     10min                    1h           10h                     100h
#   wav2vec 2.0 base  46.9 / 50.9 greedily                  11.1 / 17.6             6.1 / 13.3
#                      9.1 / 15.6 4-gram       5.5 / 11.3    4.3 / 9.5              3.4 / 8.0
#   HuBERT base        9.7 / 15.3 4-gram       6.1 / 11.3    4.3 / 9.4              3.4 / 8.1
# (those of 1h are unverified)

stage=0
stop_stage=100
smoke=false
corpus=
limited=
init=../../librispeech/hubert/exp/it2
sizes="10min 1h 10h 100h"
lm_text=
lm=
lexicon=
beam=50
seed=0
data=data
exp=exp
device=auto
accumulate=8

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

steps=()
rest=()
decode_lm=true
if $smoke; then
  init=smoke/exp/init
  beam=4
  accumulate=1
  steps=(--train.max_steps 4 --train.eval_every 2 --train.save_every 2 --data.num_workers 1 --train.tensorboard false)
  rest=(--finetune.freeze_steps 2)
  small=(--encoder.num_layers 2 --encoder.dim 32 --encoder.ffn_dim 64 --encoder.num_heads 2 --encoder.conv_dim 16
    --encoder.position_kernel 16 --encoder.position_groups 4 --optim.warmup_steps 1)
  python -c 'import flashlight.lib.text' 2> /dev/null || { decode_lm=false; echo "The extra lm is not installed: nothing is decoded with language models"; }
  begin_smoke librispeech
  limited=smoke/limited
  audiossl prep librilight --fake $limited
fi
[ -z "$lm$lexicon" ] || { [ -n "$lm" ] && [ -n "$lexicon" ] && [ -z "$lm_text" ]; } ||
  { echo "$0: --lm and --lexicon go together, without --lm_text; give both or leave them out" >&2; exit 2; }
for file in $lm $lexicon; do
  [ -e $file ] || { echo "$0: $file: no such file; correct --lm or --lexicon" >&2; exit 2; }
done
declare -A part=([10min]=limited/train-10min [1h]=limited/train-1h [10h]=limited/train-10h [100h]=librispeech/train-clean-100)
declare -A recipe=([10min]=ctc_10min [1h]=ctc_1h [10h]=ctc_10h [100h]=ctc_full)
for size in $sizes; do
  [ -n "${recipe[$size]:-}" ] || { echo "$0: --sizes $size: give some of 10min 1h 10h 100h" >&2; exit 2; }
done

if stage 0 "Kaldi directories"; then
  [ -d $data/librispeech ] || audiossl prep librispeech --corpus "$corpus" --out $data/librispeech
  [ -d $data/limited ] || audiossl prep librilight --corpus "$limited" --out $data/limited
  for size in $sizes; do audiossl data validate $data/${part[$size]}; done
  ! $smoke || audiossl pretrain wav2vec2_base --data $data/librispeech/train-clean-100 --out $init --device $device "${steps[@]}" "${small[@]}"
fi

if [ -z "$lm" ]; then
  text=$lm_text
  for name in librispeech/train-960 librispeech/train-clean-100 limited/train-10h; do [ -n "$text" ] || [ ! -d $data/$name ] || text=$data/$name; done
  lm=$exp/4gram_${text//[^A-Za-z0-9]/_}.arpa
  lexicon=$exp/lexicon_${text//[^A-Za-z0-9]/_}.txt
fi

if stage 1 "4-gram of words, and their lexicon"; then
  mkdir -p $exp
  [ -e $lm ] || audiossl lm $text --order 4 --out $lm --lexicon $lexicon
fi

if stage 2 "CTC on $sizes"; then
  dev=$data/librispeech/dev-other # as published
  [ -d $dev ] || dev=$data/librispeech/dev-clean
  for size in $sizes; do
    $train_cmd finetune ${recipe[$size]} --init $init --data $data/${part[$size]} --dev $dev --out $exp/$size --resume \
      --device $device --train.seed $seed --train.accumulate $accumulate "${steps[@]}" "${rest[@]}"
  done
fi

if stage 3 "word error rates"; then
  for size in $sizes; do
    for name in librispeech/test-clean librispeech/test-other; do
      [ -d $data/$name ] || continue
      audiossl transcribe $exp/$size $data/$name --device $device > /dev/null
      ! $decode_lm || audiossl transcribe $exp/$size $data/$name --device $device --beam $beam --lm $lm \
        --lexicon $lexicon --lm_weight 2 --word_score -1 > /dev/null
    done
  done
  audiossl report $(for size in $sizes; do echo $exp/$size; done) --compare --title "CTC with little supervision" --out $exp/report.html
fi
