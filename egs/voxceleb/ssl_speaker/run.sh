#!/usr/bin/env bash
# VoxCeleb: SimCLR with an additive margin, or another objective, without labels, then VoxCeleb1-O, E and H, raw and with AS-norm
# (O alone where it was trained on VoxCeleb1, whose speakers E and H are of).
#
#   ./run.sh --voxceleb2 DIR --voxceleb1 DIR --musan DIR --rirs DIR     see cmd.sh for how training is started on several GPUs
#   ./run.sh ... --recipe moco_am                                       another recipe for speakers, or a TOML file
#   ./run.sh ... --batch_seconds 400                                    audio per process: the published batch divided by their number
#   ./run.sh ... --choose best                                          the best of the last checkpoints on trials of --dev, never on a test list;
#                                                                       a second choice goes beside the first, its --last checkpoints must have been kept
#   ./run.sh ... --train voxceleb1/dev --crops 0                        other training data than published, whole utterances; see `published`
#   ./run.sh ... --label_efficient true                                 then also: 1 to 100 % of the labels of its training data; see label_recipe;
#                                                                       on several processes with --label_batch_seconds: 512 divided by their number
#   ./run.sh --smoke true                                               every stage on imitations of the corpora

stage=0
stop_stage=100
smoke=false
label_efficient=           # false; true with --smoke
percents="1 2 5 10 100"    # of labels
label_recipe=aam_speaker   # with the encoder of --recipe
label_steps=               # of each training on labels; 10 epochs of all: our choice
voxceleb1=
voxceleb2=
musan=
rirs=
audio=
seed=0
data=data
exp=exp
recipe=simclr_am_785
train=                     # part of $data; this and the next four: as the recipe was published
crops=                     # per utterance that is scored; 0: all of it
crop_duration=             # s
crop_mean=                 # unit or raw, as in `audiossl verify`
choose=                    # last: the newest checkpoint; mean: of the last ones' weights; best: on $dev_trials trials of $dev
last=10                    # checkpoints for mean and best
dev=voxceleb2/test         # no speaker of it is in any training part or test list
dev_trials=20000
batch_seconds=             # as in the recipe
label_batch_seconds=       # as in label_recipe
device=auto
workers=8
cohort=20000

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder
flag label_efficient $smoke

name=$(basename $recipe .toml)

# What the published figure of a recipe was trained and scored with.
published() {
  case $1 in
    #                                              train         crops duration mean choose
    simclr_am_785 | moco_am)                  echo voxceleb2/dev 10    3.5      unit last ;;
    simclr_am_750 | infonce_vicreg_847)       echo voxceleb1/dev 6     2        raw  last ;;
    dino_speaker | ssps_simclr | ssps_dino)   echo voxceleb2/dev 0     0        unit mean ;;
    *)                                        echo voxceleb2/dev 10    3.5      unit last ;; # our choice
  esac
}
read -r train_ crops_ crop_duration_ crop_mean_ choose_ <<<"$(published "$name")"
train=${train:-$train_} crops=${crops:-$crops_} crop_duration=${crop_duration:-$crop_duration_}
crop_mean=${crop_mean:-$crop_mean_} choose=${choose:-$choose_}
case $choose in
  last | mean | best) ;;
  *) echo "$0: --choose $choose: write last, mean or best" >&2; exit 2 ;;
esac
lists="o e h"
epoch=4265   # batches of 256 of label_recipe, the last incomplete one dropped
case $train in
  voxceleb1/*) lists=o epoch=580 ;; # E and H are of the speakers that it was trained on
esac
label_steps=${label_steps:-$((10 * epoch))}

short=()
shorter=()
top=300
if $smoke; then
  voxceleb1=smoke/voxceleb1 voxceleb2=smoke/voxceleb2 musan=smoke/musan rirs=smoke/rirs
  workers=0
  cohort=8
  top=4
  last=2
  dev=voxceleb2/dev   # the imitation has one speaker in voxceleb2/test
  dev_trials=12
  [ $crops = 0 ] || { crops=2 crop_duration=0.6; }
  batch_seconds=6.4
  percents="10 100"
  label_batch_seconds=3.2
  short=(--train.max_steps 4 --train.save_every 2 --train.tensorboard false --objective.crop_duration 0.4 --data.crop_duration 0.8)
  case $name in
    ssps_*) short+=(--encoder.channels 16 --encoder.pooled_dim 24 --encoder.embedding_dim 16 --objective.num_clusters 3 --objective.queue_size 16 --objective.start_epoch 1) ;;
    *) short+=(--encoder.blocks "[1,1,1,1]" --encoder.embedding_dim 16) ;;
  esac
  case $name in
    *dino*) short+=(--objective.local_duration 0.2 --objective.head_dim 16 --objective.bottleneck_dim 8 --objective.prototypes 32) ;;
    infonce_vicreg_847) short+=(--objective.projector_dims "[16,16]") ;;
    moco_am) short+=(--objective.queue_size 64) ;;
  esac
  shorter=(--train.save_every 2 --train.tensorboard false --objective.crop_duration 0.4 --data.crop_duration 0.4)
  label_steps=4
  begin_smoke
  for corpus in voxceleb1 voxceleb2 musan; do
    audiossl prep $corpus --fake smoke/$corpus
  done
  audiossl prep rirs_noises --fake $rirs
fi
augment=(--data.augment.reverb_dir $data/rirs/simulated_rirs
  --data.augment.noise_dirs "[\"$data/musan/noise\",\"$data/musan/speech\",\"$data/musan/music\"]")
kept=()   # where ffmpeg's work is kept, so that an interrupted preparation goes on
[ -z "$audio" ] || kept=(--prep.audio "$audio")
[ -z "$batch_seconds" ] || short+=(--data.batch_seconds $batch_seconds)
[ -z "$label_batch_seconds" ] || shorter+=(--data.batch_seconds $label_batch_seconds)
[ $choose = last ] || short+=(--train.keep_checkpoints $last)
cut=()
averaged=()
[ $crops = 0 ] || cut=(--crops $crops --crop-duration $crop_duration) averaged=(--crop-mean $crop_mean)

if stage 0 "Kaldi directories"; then
  [ -d $data/voxceleb1 ] || audiossl prep voxceleb1 --corpus "$voxceleb1" --out $data/voxceleb1
  [ -d $data/voxceleb2 ] || audiossl prep voxceleb2 --corpus "$voxceleb2" --out $data/voxceleb2 "${kept[@]}"
  [ -d $data/musan ] || audiossl prep musan --corpus "$musan" --out $data/musan
  [ -d $data/rirs ] || audiossl prep rirs_noises --corpus "$rirs" --out $data/rirs
  for list in $lists; do
    if [ ! -e $data/voxceleb1/all/trials_${list}_cleaned ]; then
      echo "$0: $data/voxceleb1/all/trials_${list}_cleaned: not there; put the cleaned lists beside VoxCeleb1, remove $data/voxceleb1 and run stage 0 again" >&2
      exit 1
    fi
  done
fi

if stage 1 "$name on $train"; then
  $train_cmd pretrain $recipe --data $data/$train --out $exp/$name --resume --device $device --train.seed $seed \
    --data.num_workers $workers "${augment[@]}" "${short[@]}"
fi

trained=$exp/$name
kept_steps=($trained/checkpoints/step_*)
case $choose in
  last)
    name=${name}_last model=$trained
    [ ! -e $trained/best.json ] || model=${kept_steps[-1]} # $trained is the best one, once that was chosen
    ;;
  mean) name=${name}_mean_$last model=$exp/$name ;;
  best) name=${name}_best_$last model=$trained ;;
esac
cohort_name=cohort_${cohort}_$seed

if stage 2 "embeddings of VoxCeleb1 and of a cohort: utterances drawn from the training data, for its speakers are not known"; then
  [ -d ${kept_steps[-1]} ] || { echo "$0: $trained: has no checkpoint; run stage 1" >&2; exit 1; }
  case $choose in
    last) ;;
    mean) [ -d $model ] || audiossl average $trained --last $last --out $model ;;
    best)
      if [ ${#kept_steps[@]} != $last ]; then
        echo "$0: --last $last: $trained keeps ${#kept_steps[@]} checkpoints; write --last ${#kept_steps[@]}, or train anew with another --exp" >&2
        exit 1
      fi
      audiossl trials $data/$dev --out $exp/dev_trials --random $dev_trials --seed $seed
      audiossl select $model --trials $exp/dev_trials --data $data/$dev --num-workers $workers --device $device "${cut[@]}" "${averaged[@]}"
      ;;
  esac
  members=$data/${cohort_name}_${train//\//_}
  [ -d $members ] || audiossl data subset $data/$train $members --random $cohort --seed $seed
  audiossl embed $model $data/voxceleb1/all --out $exp/embeddings_$name/voxceleb1 --num-workers $workers --device $device "${cut[@]}"
  audiossl embed $model $members --out $exp/embeddings_$name/$cohort_name --num-workers $workers --device $device "${cut[@]}"
fi

if stage 3 "VoxCeleb1 (cleaned) $lists, raw and with AS-norm"; then
  for list in $lists; do
    scored=(--trials $data/voxceleb1/all/trials_${list}_cleaned --embeddings $exp/embeddings_$name/voxceleb1 "${averaged[@]}")
    echo "$list, raw:"
    audiossl verify "${scored[@]}" --out $exp/verify_$name/raw_$list
    echo "$list, AS-norm:"
    audiossl verify "${scored[@]}" --cohort $exp/embeddings_$name/$cohort_name --norm as --top $top --out $exp/verify_$name/as_norm_${cohort_name}_$list
  done
  audiossl report $trained $exp/verify_$name/* --compare --title "$name on VoxCeleb" --out $exp/report.html
fi

if $label_efficient && stage 4 "labels of $percents % of each speaker's utterances, the smaller part within the larger, from $name and from nothing"; then
  python "$root/egs/utils/recipe_with_encoder.py" $label_recipe $model $exp/labels_$name.toml
  for percent in $percents; do
    part=$exp/labels_$name/$percent
    labelled="$train_cmd pretrain $exp/labels_$name.toml --data $data/$train --resume --device $device --train.seed $seed
      --objective.seed $seed --objective.fraction $(printf '%d.%02d' $((percent / 100)) $((percent % 100))) --data.num_workers $workers"
    labelled="$labelled --train.max_steps $label_steps --train.save_every $epoch --optim.decay_steps $((5 * epoch))"
    $labelled --out $part/$name --init $model --optim.peak_lr 1e-4 "${augment[@]}" "${shorter[@]}"
    $labelled --out $part/scratch "${augment[@]}" "${shorter[@]}"
  done
fi

if $label_efficient && stage 5 "VoxCeleb1 (cleaned) $lists of these models, raw"; then
  scored=()
  for percent in $percents; do
    for source in scratch $name; do
      part=$exp/labels_$name/$percent
      audiossl embed $part/$source $data/voxceleb1/all --out $part/embeddings_$source --num-workers $workers --device $device "${cut[@]}"
      for list in $lists; do
        scored+=("$part/verify_${source}_$list")
        echo "$percent % of the labels, from $source, $list:"
        audiossl verify --trials $data/voxceleb1/all/trials_${list}_cleaned --embeddings $part/embeddings_$source "${averaged[@]}" --out "${scored[-1]}"
      done
    done
  done
  audiossl report "${scored[@]}" --compare --title "Few labels on VoxCeleb, from $name" --out $exp/labels_$name.html
fi
