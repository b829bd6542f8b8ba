#!/usr/bin/env bash
# LeBenchmark's comparison (Parcollet et al., 2024) on synthetic speech: an encoder frozen, with adapters, and fine-tuned whole, each before
# (agnostic) and after (continued) its pretraining goes on with the task's own audio; the score beside what training for it took.
# All but words are scored with a frozen encoder by SUPERB's heads and choice, whose cost is that of all its learning rates. Full leaves the frontend frozen.
# Of LeBenchmark's six tasks: recognition, understanding as slots (sf) and emotion (er) as classes. Keywords (ks) are added.
# Translation and syntax are not here; speakers are verified by `audiossl superb asv` with frozen encoders alone.
#
#   ./run.sh                              pretrains hubert_nano, then recognises words (asr) and spots keywords (ks)
#   ./run.sh --tasks "asr ks sf er"       slots and emotions too, of `audiossl prep superb_mini`: five sessions, the fourth dev and the fifth test
#   ./run.sh --tasks asr                  one task
#   ./run.sh --voices 48 --exp exp/v48    asr with the audio of more voices, and so fewer that are of no task
#   ./run.sh --init EXP --recipe RECIPE   a given encoder; RECIPE is what its pretraining continues with
#   ./run.sh --seed 1                     a further seed: the table shows mean and deviation
#   ./run.sh --smoke true                 every stage on seconds of audio

stage=0
stop_stage=100
smoke=false
tasks=           # asr ks; with --smoke all
init=
recipe=hubert_nano
updates=1200
more=400
voices=24
seed=0
data=data
exp=exp
device=auto

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

prep=()
short=()
units=()
small=()
steps=(--train.max_steps 1000 --train.eval_every 250 --train.save_every 250)
head=(--superb.steps 5000 --superb.eval_every 250)
slots=(--task.hidden_dim 128 --task.projector_dim 128)
more_prep=()
if $smoke; then
  tasks=${tasks:-asr ks sf er}
  updates=2
  more=2
  voices=1
  prep=(--prep.voices "[3,2,2]" --prep.sentences "[12,4,4]" --prep.keywords "[40,20,20]" --prep.labelled_minutes 0.2)
  short=(--data.num_workers 0 --train.tensorboard false)
  units=(--units.clusters 10 --units.num_workers 0)
  small=(--encoder.num_layers 2)
  steps=(--train.max_steps 2 --train.eval_every 2 --train.save_every 2)
  head=(--superb.steps 4 --superb.eval_every 2 --superb.learning_rates "[1e-3,1e-2]" --superb.num_workers 0)
  slots=(--task.hidden_dim 8 --task.projector_dim 8)
  more_prep=(--prep.scale 0.02)
  begin_smoke
fi
tasks=${tasks:-asr ks}
for task in $tasks; do
  case $task in
    asr | ks | sf | er) ;;
    *) echo "$0: --tasks $tasks: there are asr, ks, sf and er" >&2; exit 2 ;;
  esac
done
place=$exp/s$seed
options=(--resume --device $device --train.seed $seed "${short[@]}")
agnostic=${init:-$place/agnostic}
asr=$data/asr_${voices}_voices
other=$data/without_${voices}_voices
# of TASK: its data directories.
of() {
  case $1 in asr) echo $asr ;; *) echo $data/$1 ;; esac
}

if stage 0 "synthesise the corpus; $voices voices are the audio of asr, keywords that of ks, the other voices are of no task"; then
  [ -d $data ] || audiossl prep mini --out $data "${prep[@]}"
  [ -d $asr/train ] || audiossl data subset $data/train $asr/train --speakers $voices
  for part in dev test; do ln -sfn ../$part $asr/$part; done
  mkdir -p $data/ks
  for part in train dev test; do ln -sfn ../keywords_$part $data/ks/$part; done
  if [ ! -d $other ]; then
    awk 'NR == FNR { own[$1]; next } !($1 in own)' $asr/train/utt2spk $data/train/utt2spk > $other.list
    audiossl data subset $data/train $other --list-file $other.list
  fi
  case " $tasks " in *" sf "* | *" er "*)
    [ -d $data/superb_mini ] || audiossl prep superb_mini --out $data/superb_mini --prep.tasks '["sf","er"]' "${more_prep[@]}"
    ln -sfn superb_mini/sf $data/sf
    all=$data/superb_mini/er/all
    mapfile -t sessions < <(cut -d' ' -f2 $all/utt2session | sort -u)
    mkdir -p $data/er
    for part in train dev test; do
      if [ ! -d $data/er/$part ]; then
        awk -v part=$part -v dev="${sessions[3]}" -v test="${sessions[4]}" \
          '{ own = $2 == dev ? "dev" : $2 == test ? "test" : "train" } own == part { print $1 }' $all/utt2session > $data/er/$part.list
        audiossl data subset $all $data/er/$part --list-file $data/er/$part.list
      fi
    done
    ;;
  esac
fi

if [ -z "$init" ] && stage 1 "task-agnostic pretraining"; then
  $train_cmd pretrain $recipe --data $other --out $agnostic "${options[@]}" "${units[@]}" "${small[@]}" --train.max_steps $updates --train.eval_every 0
fi

if stage 2 "the same encoder, its pretraining continued on the audio of each task"; then
  mkdir -p $place
  python "$root/egs/utils/recipe_with_encoder.py" $recipe $agnostic $place/continue.toml
  for task in $tasks; do
    $train_cmd pretrain $place/continue.toml --init $agnostic --data $(of $task)/train --out $place/continued_$task "${options[@]}" "${units[@]}" \
      --train.max_steps $more --train.eval_every 0
  done
fi

# tune OUT RECIPE OPTION ...: fine-tune on $task from $source, and score on its test data; finished work is kept.
tune() {
  local out=$1 recipe=$2
  shift 2
  $train_cmd finetune $recipe --init $source --data $(of $task)/train --dev $(of $task)/dev --out $out "${options[@]}" "$@" "${steps[@]}"
  [ -e $out/results.json ] || audiossl transcribe $out $(of $task)/test --device $device > /dev/null
}

if stage 3 "frozen, adapters and full, for each task and encoder"; then
  for task in $tasks; do
    for source in $agnostic $place/continued_$task; do
      case $source in "$agnostic") out=$place/$task/agnostic ;; *) out=$place/$task/continued ;; esac
      case $task in
        asr)
          # Words last several frames, which the frozen attention was not made to gather: the adapters hear neighbours too.
          tune $out/adapters ctc_adapters_nano --adapter.kernel 9
          tune $out/frozen ctc_adapters_nano --adapter.name frozen
          tune $out/full ctc_full_nano
          ;;
        ks | sf | er)
          protocol=("${head[@]}")
          case $task in
            ks) name=(--task.name keyword) ;;
            sf) name=(--task.name slot_filling "${slots[@]}") protocol+=(--superb.cache_gb 10 "${slots[@]}") ;;
            er) name=(--task.name emotion) protocol+=(--superb.folds "") ;; # one fold, that of fine-tuning
          esac
          # A finished score is kept.
          compgen -G "$out/frozen/*/$task/results.json" > /dev/null || $score_cmd superb $task --upstream $source --data $data/$task --out $out/frozen \
            --seed $seed --device $device "${protocol[@]}"
          if $smoke && [ "$source" = "$agnostic" ]; then continue; fi # the same commands again
          tune $out/adapters ctc_adapters_nano "${name[@]}"
          tune $out/full ctc_full_nano "${name[@]}"
          ;;
      esac
    done
  done
fi

if stage 4 "the table"; then
  python "$root/egs/utils/cost_table.py" $exp/s*
fi
