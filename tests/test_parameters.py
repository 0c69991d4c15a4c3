import copy

import pytest

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.parameters import check_parameters, flatten


def changed(values, path, value):
    values = copy.deepcopy(values)
    *groups, name = path.split(".")
    target = values
    for group in groups:
        target = target[group]
    target[name] = value
    return values


def test_the_projects_own_parameters_are_valid(parameter_values):
    assert check_parameters(parameter_values).training.epochs == 18


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "modle",
            "unet",
            r"unknown: 'modle' \(did you mean 'model'\?\)\. Allowed here: .*training",
        ),
        ("training.rate", 0.1, "training: unknown: 'rate'.*Allowed here: .*lr"),
        ("training.augmentation.flop", 1, r"did you mean 'flip'\?"),
        ("training.epochs", "many", r"training.epochs: .*integer.*\(got 'many'\)"),
        ("seed", 2**32, "less than 4294967296"),
        ("training.epochs", 0, "greater than or equal to 1"),
        ("training.precision", "64", "training.precision: Input should be 'auto'"),
        ("preprocessing.image_size", 250, "multiple of 32"),
        (
            "model",
            "foo",
            "model: unknown model 'foo'. Allowed: ensemble, segformer, unet, unet_efficientnet",
        ),
        ("models.unet.chanels", [1], "unet.chanels: .*Allowed here: channels"),
        ("models.resnet", {}, "unknown model 'resnet'"),
        ("publishing.destination", "hub", "needs a repository: publishing.repo_id=NAME/MODEL"),
        ("publishing.gate.confidence", 95, "less than 1"),
        ("evaluation.split", "holdout", "'train', 'val' or 'test'"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(parameter_values, path, value, message):
    with pytest.raises(InputError, match=message):
        check_parameters(changed(parameter_values, path, value))


def test_a_precision_may_be_a_number_as_the_command_line_gives_it(parameter_values):
    values = changed(parameter_values, "training.precision", 32)
    assert check_parameters(values).training.precision == "32"


def test_a_missing_parameter_is_refused_by_name(parameter_values):
    values = copy.deepcopy(parameter_values)
    del values["training"]["epochs"]
    with pytest.raises(InputError, match="training.epochs: Field required"):
        check_parameters(values)


def test_all_mistakes_are_named_at_once(parameter_values):
    values = changed(changed(parameter_values, "model", "foo"), "split.seed", -1)
    with pytest.raises(InputError, match=r"(?s)model: .*split.seed: "):
        check_parameters(values)


def test_flatten_gives_dotted_keys():
    nested = {"seed": 1, "training": {"epochs": 2, "augmentation": {"flip": 0.5}}}
    assert flatten(nested) == {"seed": 1, "training.epochs": 2, "training.augmentation.flip": 0.5}
