#!/usr/bin/env bash
# Acoustic-phonetic word embeddings on the synthetic `mini` corpus: keywords of many voices and their phones in one space, and a search with them.
#
#   ./run.sh                                everything, from nothing to a search
#   ./run.sh --data ../hubert/data --init ../hubert/exp/it2   with a corpus and an encoder that are there already
#   ./run.sh --seed 1 --exp exp/s1          another seed, in another place
#   ./run.sh --smoke true                   every stage on seconds of audio
#
# Four words are never labelled in training: their values end in `_unseen`. Frozen encoder; losses compared at equal updates, in one table:
# hard negatives, all negatives (on average what random ones are), hard negatives with labels of its own for the unlabelled words, and
# adaptive margins. The table of several seeds: python ../../utils/task_table.py test exp/s0 exp/s1

stage=0
stop_stage=100
smoke=false
seed=0
data=data
exp=exp
init=
unseen="five seven left stop"
device=auto
workers=2

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

prep=()
short_encoder=()
short=()
if $smoke; then
  workers=0
  prep=(--prep.voices "[3,2,2]" --prep.sentences "[12,4,4]" --prep.keywords "[40,20,20]" --prep.labelled_minutes 0.2)
  short_encoder=(--train.max_steps 2 --train.save_every 2 --train.eval_every 2 --train.tensorboard false --encoder.num_layers 2)
  short=(--train.max_steps 4 --train.save_every 2 --train.eval_every 2 --train.tensorboard false --optim.warmup_steps 1)
  begin_smoke
fi

if stage 0 "the corpus, and its keywords with \`utt2word\`"; then
  [ -d $data/train ] || audiossl prep mini --out $data "${prep[@]}"
  for part in train dev test; do
    words=$exp/words/$part
    mkdir -p $words
    for file in wav.scp utt2spk spk2utt utt2dur phones.ctm; do
      cp $data/keywords_$part/$file $words/$file
    done
    hidden=$([ $part = train ] && echo "$unseen" || echo "")
    awk -v hidden="$hidden" 'BEGIN { n = split(hidden, list, " "); for (k = 1; k <= n; k++) left[list[k]] = 1 }
      { print $1, ($2 in left) ? "-" : $2 }' $data/keywords_$part/utt2keyword > $words/utt2word
    audiossl data validate $words
  done
fi

if stage 1 "an encoder, if none is given"; then
  if [ -z "$init" ]; then
    $train_cmd pretrain best_rq_nano --data $data/train --out $exp/encoder --resume --device $device --train.seed $seed \
      --data.num_workers $workers "${short_encoder[@]}"
  fi
fi
init=${init:-$exp/encoder}

if stage 2 "embeddings by each loss"; then
  train="$train_cmd finetune word_embedding --init $init --data $exp/words/train --dev $exp/words/dev --resume --device $device
    --train.seed $seed --data.num_workers $workers"
  $train --out $exp/hard "${short[@]}"
  $train --out $exp/all --task.hardest 0 "${short[@]}"
  $train --out $exp/self_labelled --task.self_label_radius 0.5 "${short[@]}"
  $train --out $exp/adaptive_margin --task.loss adaptive_margin "${short[@]}"
fi

if stage 3 "values on words of unseen voices"; then
  for name in hard all self_labelled adaptive_margin; do
    python "$root/egs/utils/score_task.py" $exp/$name $exp/words/test $workers $device
  done
  python "$root/egs/utils/task_table.py" test $exp
fi

if stage 4 "two words, one of them without a label in training, in the sentences of test"; then
  # The pronunciation that test has for the unseen word, as a lexicon would give it.
  name=$(awk '$2 == "seven" { print $1; exit }' $exp/words/test/utt2word)
  awk -v name="$name" '$1 == name && $5 != "SIL" { phones = phones " " $5 } END { print "seven" phones }' $exp/words/test/phones.ctm > $exp/lexicon.txt
  audiossl search zero seven --model $exp/hard --recordings $data/audio/test --lexicon $exp/lexicon.txt --device $device --out $exp/found.txt
fi
