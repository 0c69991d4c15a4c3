"""Search for better training parameters with Optuna, within the ranges of `suggest` below.

    python scripts/sweep.py [--trials 20] [--env gpu] [--model unet]

Run it in the project's folder, after `kedro run --pipeline data_processing`, in one process. The
study keeps each epoch of each trial; the same command goes on after an interruption.
"""

import argparse
from pathlib import Path

import optuna
import torch
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from lightning.pytorch.callbacks import LambdaCallback

from brain_mri_segmentation.parameters import TrainingParameters, check_parameters
from brain_mri_segmentation.training import Partition, TrainingConfig, fit_model
from brain_mri_segmentation.training.callbacks import TrainingDivergedError

WARMUP_EPOCHS = 5  # before a trial that is worse than the median at the same epoch may be ended


def suggest(trial: optuna.Trial) -> dict[str, object]:
    """Draw parameters of training, by their names in parameters_training.yml."""
    return {
        "lr": trial.suggest_float("lr", 0.0003, 0.01, log=True),  # a SegFormer: 1e-5 to 3e-4
        "dice_weight": trial.suggest_float("dice_weight", 0.2, 0.8),
        "oversample_foreground": trial.suggest_float("oversample_foreground", 0.4, 0.8),
    }


def main() -> None:
    """Train until there are as many trials as wanted, and print the best one's parameters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20, help="in all, earlier ones included")
    parser.add_argument("--env", default="local")
    parser.add_argument("--model")
    options = parser.parse_args()
    bootstrap_project(Path.cwd())
    model = {"model": options.model} if options.model else {}
    with KedroSession.create(env=options.env, runtime_params=model) as session:
        context = session.load_context()
        catalog, values = context.catalog, check_parameters(context.config_loader["parameters"])
    train, val = (
        Partition(*(catalog.load(n) for n in (f"{s}_images", f"{s}_masks", "slice_statistics")))
        for s in ("train", "val")
    )
    folder = Path(catalog.load("training_workspace")["path"], "sweep")
    folder.mkdir(parents=True, exist_ok=True)

    def objective(trial: optuna.Trial) -> float:
        def report(trainer: object, _: object) -> None:
            trial.report(float(trainer.callback_metrics["val/dice"]), trainer.current_epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        training = values.training.model_dump() | suggest(trial) | {"resume": False}
        config = TrainingConfig(
            values.model,
            values.models.get(values.model, {}),
            values.preprocessing,
            TrainingParameters.model_validate(training),
            values.seed,
        )
        pruning = [LambdaCallback(on_train_epoch_end=report)]
        checkpoint, _ = fit_model(config, train, val, folder, callbacks=pruning)
        return checkpoint.metadata["scores"]["val/dice"]

    study = optuna.create_study(
        study_name=values.model,
        storage=f"sqlite:///{folder}/study.db",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=WARMUP_EPOCHS),
    )
    given_up = (TrainingDivergedError, torch.OutOfMemoryError)
    study.optimize(objective, max(0, options.trials - len(study.trials)), catch=given_up)
    chosen = ",".join(f"training.{name}={value}" for name, value in study.best_params.items())
    print(f"val/dice {study.best_value:.4f} with --params {chosen}")


if __name__ == "__main__":
    main()
