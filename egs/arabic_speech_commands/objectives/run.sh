#!/usr/bin/env bash
# Every masked-prediction objective on Arabic Speech Commands for the same time on the clock, then probes for keywords and speakers: one table.
#
#   ./run.sh --corpus DIR           DIR holds `dataset/`, `train.csv`, `val.csv`
#   ./run.sh --data ../hubert/data  with the directories that ../hubert has made already
#   ./run.sh --seconds 300          of training for each; how many updates that is on this machine is measured first
#   ./run.sh --seeds "0 1 2"        several seeds, with their spread
#   ./run.sh --recipes "hubert_nano dinosr_nano"
#   ./run.sh --smoke true           some updates on an imitation of the corpus, of one recipe for each frontend: those of all 18 would take several minutes
#
# A recipe that fails, as where training collapses, is in the table with what it said. A second run goes on where the first one ended. Keywords are scored
# on 6 speakers whom the encoder has not heard, as they are and with 3 to 7 words of the two development speakers over them, 15 dB below; 16 of the speakers
# whom it has, on words of which they said others in training.

smoke=false
seconds=300
seeds=0
recipes=
corpus=
data=data
exp=exp
device=auto

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder
. masked_objectives.sh

short=(--train.tensorboard false --train.save_every 100000)
probe=()
if $smoke; then
  seconds=1
  recipes=${recipes:-$smoke_recipes}
  short+=(--data.num_workers 0 --data.batch_seconds 8)
  probe=(--probe.steps 20)
  begin_smoke arabic_speech_commands
fi
recipes=${recipes:-$all_recipes}

[ -d $data ] || audiossl prep arabic_speech_commands --corpus "$corpus" --out $data
train=$data/all_train
keyword=(--train $data/train --dev $data/dev --test $data/test)
[ -d $data/test_babble ] || audiossl data augment $data/test $data/test_babble --augment.noise_probability 1 --augment.noise_dirs "[\"$data/dev\"]" \
  --augment.noise_counts '[[3, 7]]' --augment.noise_snr '[[15, 15]]' --augment.noise_level sum
babble=(--train $data/train --dev $data/dev --test $data/test_babble)
speaker=(--train $data/train --split 0.7/0.1/0.2)
phones=()
run_all
