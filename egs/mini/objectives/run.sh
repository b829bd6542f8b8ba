#!/usr/bin/env bash
# Every masked-prediction objective on the synthetic `mini` corpus for the same time on the clock, then probes and the units of its best layer: one table.
#
#   ./run.sh                        everything, from nothing to the table
#   ./run.sh --data ../hubert/data  with the corpus that ../hubert has made already
#   ./run.sh --seconds 300          of training for each; how many updates that is on this machine is measured first
#   ./run.sh --seeds "0 1 2"        several seeds, with their spread
#   ./run.sh --recipes "hubert_nano dinosr_nano"
#   ./run.sh --smoke true           some updates on seconds of audio, of one recipe for each frontend: those of all 18 would take several minutes
#
# A recipe that fails, as where training collapses, is in the table with what it said. A second run goes on where the first one ended.

smoke=false
seconds=300
seeds=0
recipes=
data=data
exp=exp
device=auto

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder
. masked_objectives.sh

short=(--train.tensorboard false --train.save_every 100000)
probe=()
prep=()
if $smoke; then
  seconds=1
  recipes=${recipes:-$smoke_recipes}
  prep=(--prep.voices "[3,2,2]" --prep.sentences "[40,4,4]" --prep.keywords "[20,20,20]" --prep.labelled_minutes 0.3)
  short+=(--data.num_workers 0 --data.batch_seconds 8)
  probe=(--probe.steps 20)
  begin_smoke
fi
recipes=${recipes:-$all_recipes}

[ -d $data/train ] || audiossl prep mini --out $data "${prep[@]}"
train=$data/train
keyword=(--train $data/keywords_train --dev $data/keywords_dev --test $data/keywords_test)
speaker=(--train $data/train --split 0.7/0.1/0.2)
babble=()
phones=($data/dev $data/test)
run_all
