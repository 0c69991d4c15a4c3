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

run() {  # PIPELINES PARAMETERS
    kedro run --env "$environment" --only-missing-outputs --pipelines "$1" \
        --params "training.resume=auto,$2${given:+,$given}"
}

publish() {  # MODEL; that the gate holds it back, and says why, is no failure
    local said
    said=$(run publishing "model=$1" 2>&1 | tee >(cat >&2)) ||
        grep -q "^Error: $1 is not published, because" <<< "$said"
}

run data_processing model=unet_efficientnet
for model in unet_efficientnet unet; do
    run training,evaluation "model=$model"
done

# From random weights: more epochs and a higher rate than pretrained ones bear.
# With models.segformer.pretrained=NAME_OR_FOLDER and training.lr=0.00006 among the parameters it starts from the hub's.
run training,evaluation "model=segformer,models.segformer.pretrained=null,training.lr=0.0004,training.weight_decay=0.03,\
training.epochs=40,training.teacher=$models/unet_efficientnet/best.ckpt"
publish segformer

# The folds take the place of the training above in the reports of both U-Nets.
for model in unet_efficientnet unet; do
    run cross_validation "model=$model"
    kedro run --env "$environment" --pipelines final \
        --params "training.resume=auto,model=$model${given:+,$given}"
done
publish unet_efficientnet
