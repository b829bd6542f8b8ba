#!/usr/bin/env bash
# Speaker verification on the synthetic `mini` corpus: SimCLR on its training voices, without their labels, then trials of unseen voices.
#
#   ./run.sh                       everything, from nothing to the table
#   ./run.sh --data ../hubert/data with the corpus that ../hubert has made already
#   ./run.sh --seed 1 --exp exp/s1 another seed, in another place
#   ./run.sh --pseudo_labels true  then also: a round of self-training on clusters of SimCLR's embeddings
#   ./run.sh --smoke true          every stage on seconds of audio

stage=0
stop_stage=100
smoke=false
pseudo_labels=   # false; true with --smoke
clusters=100   # fewer than the 136 training voices, whose number a self-supervised run does not know
seed=0
data=data
exp=exp
device=auto
workers=2

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder
flag pseudo_labels $smoke

prep=()
short=()
gate=()
top=300
if $smoke; then
  workers=0
  top=4
  prep=(--prep.voices "[3,2,2]" --prep.sentences "[40,4,4]" --prep.keywords "[20,20,20]" --prep.labelled_minutes 0.3)
  short=(--train.max_steps 4 --train.save_every 2 --train.tensorboard false --optim.warmup_steps 1)
  clusters=4
  gate=(--objective.gate_after 2 --objective.gate 30)
  begin_smoke
fi
# Sentences of some three seconds: crops of 1.2 s, and as many utterances per batch as of clips of one second.
crops=(--objective.crop_duration 1.2 --data.crop_duration 2.4 --data.batch_seconds 240)
pretrain="$train_cmd pretrain simclr_nano --data $data/train --resume --device $device --train.seed $seed --data.num_workers $workers"

if stage 0 "synthesise the corpus"; then
  [ -d $data/train ] || audiossl prep mini --out $data "${prep[@]}"
  audiossl data validate $data/train
fi

if stage 1 "trials: all pairs of sentences of unseen voices (no sentence comes twice), and of their keywords, never the same word"; then
  audiossl trials $data/test --out $exp/trials/sentences
  audiossl trials $data/keywords_test --out $exp/trials/keywords --different utt2keyword
fi

if stage 2 "SimCLR, without a margin and with the additive one of 0.1"; then
  $pretrain --out $exp/simclr "${crops[@]}" "${short[@]}"
  $pretrain --out $exp/simclr_margin --objective.margin.name additive --objective.margin.size 0.1 "${crops[@]}" "${short[@]}"
fi

# Embeddings of unseen voices, sentences and keywords, and their equal error rates, raw and, against the training sentences, with AS-norm: verify SOURCE NAME
verify() {
  audiossl embed $1 $data/train --out $exp/embeddings/$2_train --seed $seed --num-workers $workers --device $device
  for kind in sentences keywords; do
    part=test
    [ $kind = sentences ] || part=keywords_test
    audiossl embed $1 $data/$part --out $exp/embeddings/$2_$kind --seed $seed --num-workers $workers --device $device
    audiossl verify --trials $exp/trials/$kind --embeddings $exp/embeddings/$2_$kind --out $exp/verify_$2_$kind
    audiossl verify --trials $exp/trials/$kind --embeddings $exp/embeddings/$2_$kind --cohort $exp/embeddings/$2_train --norm as --top $top \
      --out $exp/verify_$2_${kind}_as_norm
  done
}

if stage 3 "embeddings and equal error rates, of a random encoder too"; then
  verify $exp/simclr simclr
  verify $exp/simclr_margin simclr_margin
  verify random:$exp/simclr random
fi

if stage 4 "report"; then
  audiossl report $exp/simclr $exp/simclr_margin $exp/verify_* --compare --title "SimCLR on mini" --out $exp/report.html
fi

if $pseudo_labels && stage 5 "one round of self-training: $clusters clusters of SimCLR's embeddings are the labels, of which the costly ones are not believed"; then
  column=utt2cluster$seed   # the data may be other seeds' too
  audiossl cluster $exp/embeddings/simclr_train --clusters $clusters --seed $seed --out $data/train/$column --device $device
  $train_cmd pretrain pseudo_label_nano --data $data/train --init $exp/simclr --out $exp/pseudo_label --resume --device $device \
    --train.seed $seed --data.num_workers $workers --objective.column $column --objective.crop_duration 1.2 \
    --data.crop_duration 1.2 --data.batch_seconds 76.8 "${gate[@]}" "${short[@]}"
  verify $exp/pseudo_label pseudo_label
  audiossl report $exp/simclr $exp/pseudo_label $exp/verify_* --compare --title "Self-training on mini" --out $exp/pseudo_label.html
fi
