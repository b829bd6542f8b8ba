#!/usr/bin/env bash
# SUPERB: frozen encoders on all tasks whose data is there, and one table of them: scores, layers, what each cost.
#
#   ./run.sh                                          filterbanks and random weights on synthetic speech, with short training
#   ./run.sh --upstreams "fbank ../../mini/hubert/exp/it2"  other ones, separated by spaces
#   ./run.sh --data DIR --published true              directories of the real corpora (see ../README.md), by the protocol's own numbers
#   ./run.sh --tasks '["all"]'                        those of SUPERB-SG too, on synthetic speech
#   ./run.sh --seed 1                                 a further seed: the table shows mean and deviation; without it 0, of --published 1337
#   ./run.sh --smoke true                             every stage on seconds of audio

stage=0
stop_stage=100
smoke=false
published=false
upstreams="fbank fbank+deltas random:hubert_nano"
tasks=
seed=
data=data
exp=exp
device=auto

. ./cmd.sh
. ../../utils/recipe.sh || exit 1 # run it in its own folder

if [ -z "$seed" ]; then  # the protocol's own, where it is followed
  if $published; then seed=1337; else seed=0; fi
fi

# any TASKS: whether one of these, given as A|B, has data; ood_es is one of ood.
any() {
  ls "$data" | grep -E "^($1)(_|\$)" > /dev/null
}

prep=()
[ -z "$tasks" ] || prep=(--prep.tasks "$tasks")
settings=()
if $smoke; then
  upstreams="fbank random:hubert_nano"
  prep=(--prep.scale 0.02 --prep.tasks '["all"]')
  settings=(--superb.steps 2 --superb.eval_every 2 --superb.accumulate 1 --superb.learning_rates "[1e-3,1e-2]" --superb.num_workers 0
    --task.projector_dim 16 --task.hidden_dim 8 --task.pooled_dim 8 --task.num_workers 0
    --task.dim 16 --task.ffn_dim 16 --task.conv_dim 16 --task.beam 2 --task.max_tokens 10
    --superb.vc.learning_rates "[1e-3]" --task.vc.encoder linear --task.vc.prenet_dims "[8]" --task.vc.cells 1)
  python -c 'import pesq, pystoi' 2> /dev/null || {
    settings+=(--task.se.metrics '["si_sdr_improvement"]')
    echo "The extra enh is not installed: PESQ and STOI are not measured"
  }
  begin_smoke
fi

if stage 0 "data directories of all tasks"; then
  if $published && ! $smoke && [ ! -d $data ]; then
    echo "$0: --data $data: not found; name the directories of the real corpora, see ../README.md" >&2
    exit 1
  fi
  if [ -d $data ] && [ -n "$tasks" ] && [ "$tasks" != "$(cat $data/synthesised 2> /dev/null)" ]; then
    echo "$0: --tasks $tasks: $data is there already and was not synthesised with it; choose another --data, or leave it out" >&2
    exit 1
  fi
  if [ ! -d $data ]; then
    audiossl prep superb_mini --out $data "${prep[@]}"
    echo "$tasks" > $data/synthesised
  fi
fi

if stage 1 "scores; finished ones are kept"; then
  if ! $published && ! $smoke; then
    # An hour or two on two cores for three encoders: small heads, two learning rates, and fewer steps for those that read frames. Enough to tell an encoder
    # from a random one; no published number is comparable. A setting that no task of the data has would be refused.
    ! any "asr|asv|er|ic|ks|ood|pr|sd|se|sf|sid|ss|st|vc" || settings+=(--superb.steps 2000 --superb.eval_every 200)
    ! any "asr|asv|ood|pr|sd|se|sf|ss|st|vc" || settings+=(--superb.accumulate 1)
    ! any "asr|asv|ood|pr|qbe|sd|se|sf|ss|st|vc" || settings+=(--superb.cache_gb 10)
    ! any "asr|asv|ood|sd|se|sf|ss|vc" || settings+=(--task.hidden_dim 128)
    ! any "asv" || settings+=(--task.pooled_dim 128)
    for task in pr sf ood; do
      [ ! -d $data/$task ] || settings+=(--superb.$task.steps 600 --superb.$task.eval_every 100 --superb.$task.learning_rates "[1e-2,1e-3]")
    done
    [ ! -d $data/asr ] || settings+=(--superb.asr.learning_rates "[1e-2,1e-3]")
    [ ! -d $data/asv ] || settings+=(--superb.asv.steps 2000 --superb.asv.eval_every 200 --superb.asv.learning_rates "[1e-3,5e-4]")
    [ ! -d $data/sd ] || settings+=(--superb.sd.steps 600 --superb.sd.eval_every 100 --superb.sd.learning_rates "[1e-3,1e-4]")
    for task in asr sf; do
      [ ! -d $data/$task ] || settings+=(--task.$task.projector_dim 128)
    done
    for task in asr sf ood; do  # two masks of 40 frames are most of a sentence of two seconds where frames are few: a fifth of it at most, at any rate
      [ ! -d $data/$task ] || settings+=(--task.$task.time_fraction 0.2)
    done
  fi
  if ! $published; then  # synthetic sentences are short, and written in the synthesiser's phones
    [ ! -d $data/asv ] || settings+=(--task.asv.min_seconds 0)
    [ ! -d $data/pr ] || settings+=(--task.pr.vocabulary training)
    [ ! -d $data/st ] || settings+=(--superb.st.warmup_steps 500)  # of 2000 steps
    [ ! -d $data/vc ] || settings+=(--superb.vc.warmup_steps 500)
  fi
  started=$SECONDS
  # Unquoted: one word per upstream.
  $score_cmd superb all --upstream $upstreams --data $data --out $exp --seed $seed --device $device "${settings[@]}" > /dev/null
  echo "Stage 1 took $((SECONDS - started)) s"
fi

if stage 2 "the table"; then
  audiossl superb table $exp
  echo "The same with the weights of the layers: $(realpath $exp)/table.html"
fi
