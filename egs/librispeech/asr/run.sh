#!/usr/bin/env bash
# LibriSpeech: CTC on 100 labelled hours, with adapters and in full, read greedily, by beam search and with n-gram language models.
#
#   ./run.sh --corpus DIR --init EXP   DIR holds `LibriSpeech/`; EXP is a pretrained encoder (an experiment, or a checkpoint that
#                                      `audiossl import` knows); the 4-gram is made of --lm_text FILE, else of the transcripts of
#                                      all training parts that are there
#   ./run.sh --lm FILE --lexicon FILE  instead, a model of words as it is, such as the official 4-gram of openslr.org/11 (published with --beam
#                                      1500), and its words with their characters; `audiossl lm librispeech-vocab.txt --order 1 --out vocab.arpa
#                                      --lexicon FILE` writes these
#   ./run.sh --tokens bpe              word pieces instead of characters (extra `asr`); then there is no lexicon, and no 4-gram
#   ./run.sh --smoke true              every stage on an imitation of the corpus
#
# Published (Baevski et al., 2020; Hsu et al., 2021), not rerun here, ctc_full, test-clean / test-other:
#   wav2vec 2.0 base  6.1 / 13.3 greedily, 3.4 / 8.0 with the official 4-gram, beam 1500
#   HuBERT base       6.3 / 13.2 greedily, 3.4 / 8.1

stage=0
stop_stage=100
smoke=false
corpus=
init=../hubert/exp/it2
lm_text=
lm=
lexicon=
tokens=characters
bpe_size=500
beam=50
seed=0
data=data
exp=exp
device=auto
accumulate=8   # of ctc_full: processes x accumulate = 8 is the published batch; ctc_adapters keeps its recipe's

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

steps=()
adapters=()
decode_lm=true
if $smoke; then
  init=smoke/exp/init
  beam=4
  accumulate=1
  bpe_size=25
  steps=(--train.max_steps 4 --train.eval_every 2 --train.save_every 2 --data.num_workers 1 --train.tensorboard false)
  adapters=(--adapter.num_top_layers 1)
  small=(--encoder.num_layers 2 --encoder.dim 32 --encoder.ffn_dim 64 --encoder.num_heads 2 --encoder.conv_dim 16
    --encoder.position_kernel 16 --encoder.position_groups 4 --optim.warmup_steps 1)
  python -c 'import flashlight.lib.text' 2> /dev/null || { decode_lm=false; echo "The extra lm is not installed: nothing is decoded with language models"; }
  begin_smoke librispeech
fi
[ -z "$lm$lexicon" ] || { [ -n "$lm" ] && [ -n "$lexicon" ] && [ -z "$lm_text" ]; } ||
  { echo "$0: --lm and --lexicon go together, without --lm_text; give both or leave them out" >&2; exit 2; }
for file in $lm $lexicon; do
  [ -e $file ] || { echo "$0: $file: no such file; correct --lm or --lexicon" >&2; exit 2; }
done
[ $tokens = characters ] || [ -z "$lm$lm_text" ] ||
  { echo "$0: --tokens $tokens is read without a lexicon; leave out --lm, --lexicon and --lm_text" >&2; exit 2; }
if [ $tokens = bpe ]; then
  pieces=(--task.tokens bpe --task.bpe_size $bpe_size)
  $smoke || adapters+=(--adapter.bottleneck 240) # with the output layer of 500 pieces, 256 would make the adapters of a base encoder more than 20 MB
else
  pieces=(--task.tokens $tokens)
fi
common="--dev $data/dev-clean --resume --device $device --train.seed $seed"

if stage 0 "Kaldi directories"; then
  [ -d $data ] || audiossl prep librispeech --corpus "$corpus" --out $data
  audiossl data validate $data/train-clean-100 --no-check-audio
  ! $smoke || audiossl pretrain wav2vec2_base --data $data/train-clean-100 --out $init --device $device "${steps[@]}" "${small[@]}"
fi

if [ -z "$lm" ]; then
  text=$lm_text
  for part in train-960 train-clean-100; do [ -n "$text" ] || [ ! -d $data/$part ] || text=$data/$part; done
  lm=$exp/4gram_${text//[^A-Za-z0-9]/_}.arpa
  lexicon=$exp/lexicon_${text//[^A-Za-z0-9]/_}.txt
fi

if stage 1 "4-gram of words, and their lexicon"; then
  mkdir -p $exp
  [ $tokens != characters ] || [ -e $lm ] || audiossl lm $text --order 4 --out $lm --lexicon $lexicon
fi

if stage 2 "CTC on 100 hours: adapters, and in full"; then
  $train_cmd finetune ctc_adapters --init $init --data $data/train-clean-100 --out $exp/ctc_adapters_$tokens $common "${steps[@]}" "${pieces[@]}" "${adapters[@]}"
  $train_cmd finetune ctc_full --init $init --data $data/train-clean-100 --out $exp/ctc_full_$tokens $common --train.accumulate $accumulate "${steps[@]}" "${pieces[@]}"
fi

if stage 3 "6-gram of the tokens, for decoding without a lexicon"; then
  # Both recognisers learnt their tokens from this text, so they are the same.
  [ -e $exp/6gram_$tokens.arpa ] || audiossl lm $data/train-clean-100 --order 6 --tokens $exp/ctc_full_$tokens --out $exp/6gram_$tokens.arpa
fi

if stage 4 "word error rates"; then
  for recipe in ctc_adapters ctc_full; do
    for part in test-clean test-other; do
      [ -d $data/$part ] || continue
      read="audiossl transcribe $exp/${recipe}_$tokens $data/$part --device $device"
      $read > /dev/null
      $read --beam $beam > /dev/null
      if $decode_lm; then
        [ $tokens != characters ] || $read --beam $beam --lm $lm --lexicon $lexicon --lm_weight 2 --word_score -1 > /dev/null
        $read --beam $beam --lm $exp/6gram_$tokens.arpa > /dev/null
      fi
    done
  done
  audiossl report $exp/ctc_* --compare --title "CTC on 100 hours of LibriSpeech" --out $exp/report.html
fi
