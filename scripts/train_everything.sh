#!/usr/bin/env bash
# Train and compare all models: the EfficientNet U-Net, the U-Net baseline, the SegFormer that learns from the first, then the
# folds of both U-Nets and the final model of each. Meant for one large GPU; interrupted, the same command goes on.
#
#   scripts/train_everything.sh [ENVIRONMENT [PARAMETERS]]
#   scripts/train_everything.sh gpu raw_path=kaggle_3m,evaluation.split=val
#   scripts/train_everything.sh demo training.epochs=2   # on the phantoms of `make demo`
#
# Your parameters are put last, and win: training.epochs is then that of the SegFormer, too.
set -euo pipefail

environment=${1:-gpu}
given=${2:-}
models=data/06_models
[ "$environment" = demo ] && models=data/demo/06_models

run() {  # PIPELINES PARAMETERS [OPTION]
    kedro run --env "$environment" ${3:+"$3"} --pipelines "$1" --params "training.resume=auto,$2${given:+,$given}"
}

publish() {  # MODEL [OPTION]; that the gate holds it back, and says why, is no failure
    local said
    said=$(run publishing "model=$1" ${2:+"$2"} 2>&1 | tee >(cat >&2)) ||
        grep -q "^Error: $1 is not published, because" <<< "$said"
}

# The folds below replace these models and their reports: what is there is left as it is.
missing=--only-missing-outputs
run data_processing model=unet_efficientnet $missing
for model in unet_efficientnet unet; do
    run training,evaluation "model=$model" $missing
done

# From random weights: more epochs and a higher rate than pretrained ones bear.
# With models.segformer.pretrained=NAME_OR_FOLDER and training.lr=0.00006 among the parameters it starts from the hub's.
run training,evaluation "model=segformer,models.segformer.pretrained=null,training.lr=0.0004,training.weight_decay=0.03,\
training.epochs=40,training.teacher=$models/unet_efficientnet/best.ckpt" $missing
publish segformer $missing

# Finished folds are not trained again, and those of another recipe are refused: training.resume=auto.
for model in unet_efficientnet unet; do
    run cross_validation "model=$model"
    run final "model=$model"
done
publish unet_efficientnet
