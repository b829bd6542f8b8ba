#!/usr/bin/env bash
# SUPERB's keyword spotting and speaker identification on real recordings: 40 Arabic words of unseen speakers; 24 speakers by other takes.
#
#   ./run.sh --corpus DIR --upstream ../hubert/exp/it1    that encoder, the same untrained, filterbanks
#   ./run.sh --seed 1 ...                                 a further seed: the table shows mean and deviation
#   ./run.sh --smoke true                                 every stage on a made-up corpus of seconds

stage=0
stop_stage=100
smoke=false
corpus=
upstream=../hubert/exp/it1
seed=0
data=data
exp=exp
device=auto
steps=20000

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

sources="fbank fbank+deltas random:$upstream $upstream"
settings=(--superb.steps $steps --superb.eval_every $((steps / 20)))
if $smoke; then
  sources="fbank random:hubert_nano"
  settings=(--superb.steps 6 --superb.eval_every 3)
  begin_smoke arabic_speech_commands
fi

if stage 0 "keywords as the lists have them, the speakers of dev and test unheard; speakers by takes: 9 is dev, 10 is test"; then
  [ -d $data/ks ] || audiossl prep arabic_speech_commands --corpus "$corpus" --out $data/ks
  [ -d $data/all ] || audiossl data combine $data/all $data/ks/all_train $data/ks/test
  mkdir -p $data/sid
  for part in train dev test; do
    if [ ! -d $data/sid/$part ]; then
      case $part in train) takes='0[1-8]' ;; dev) takes=09 ;; test) takes=10 ;; esac
      if ! grep -E -- "-$takes " $data/all/utt2spk > $data/sid/$part.list; then
        echo "$0: $data/all: no take $takes for $part; give the whole corpus" >&2
        exit 1
      fi
      audiossl data subset $data/all $data/sid/$part --list-file $data/sid/$part.list
    fi
  done
fi

if stage 1 "scores; finished ones are kept"; then
  # Unquoted: one word per upstream. Clips last a second: whole ones instead of crops of 8 s.
  $score_cmd superb all --upstream $sources --data $data --out $exp --seed $seed --device $device --superb.sid.crops 0 \
    "${settings[@]}" > /dev/null
fi

if stage 2 "the table"; then
  audiossl superb table $exp
  echo "The same with the weights of the layers: $(realpath $exp)/table.html"
fi
