import dataclasses

import pytest
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint, as_arrays, create_model
from brain_mri_segmentation.training import Partition, TrainingConfig, fit_model
from brain_mri_segmentation.training.distillation import load_teacher
from brain_mri_segmentation.training.module import SegmentationModule


@pytest.fixture
def teacher(parameters):
    """A teacher that was trained on P0 to P3 and selected by P4."""
    network = create_model("unet", {"channels": [4, 8]}, 9)
    rules = parameters.preprocessing.model_dump() | {"image_size": 32, "context": 1}
    rules["temperature"] = 2.0
    patients = {"train_patients": ["P0", "P1", "P2", "P3"], "val_patients": ["P4"]}
    return Checkpoint("unet", network.config, rules, as_arrays(network.state_dict()), patients)


def test_a_teacher_gives_its_calibrated_probability(teacher, parameters):
    rules = parameters.preprocessing.model_copy(update={"image_size": 32, "context": 1})
    patients = ["P0", "P1", "P2", "P3"], ["P4"]
    probability = load_teacher(teacher, rules, *patients)
    image = torch.randn(2, 9, 32, 32)
    expected = (teacher.build()(image) / 2).softmax(dim=1)[:, 1]
    torch.testing.assert_close(probability(image), expected)
    assert not probability(image).requires_grad


@pytest.mark.parametrize(
    ("train", "val", "stranger"),
    [
        (["P0", "P1", "P2"], ["P4"], "P3"),  # trained on one that is test, perhaps
        (["P0", "P1", "P2"], ["P3"], "P3"),  # trained on the student's validation
        (["P0", "P1", "P2", "P3"], ["P5"], "P4"),  # selected by one that is test, perhaps
    ],
)
def test_a_teacher_that_knows_other_patients_is_refused(teacher, parameters, train, val, stranger):
    rules = parameters.preprocessing.model_copy(update={"image_size": 32, "context": 1})
    with pytest.raises(InputError, match=f"do not train this model, such as {stranger}"):
        load_teacher(teacher, rules, train, val)


def test_a_teacher_whose_patients_nobody_knows_is_refused(teacher, parameters):
    rules = parameters.preprocessing.model_copy(update={"image_size": 32, "context": 1})
    with pytest.raises(InputError, match="it does not say which"):
        load_teacher(dataclasses.replace(teacher, metadata={}), rules, ["P0"], [])


def test_a_teacher_that_sees_other_slices_is_refused(teacher, parameters):
    rules = parameters.preprocessing.model_copy(update={"image_size": 32, "context": 0})
    with pytest.raises(InputError, match=r"preprocessing.context=1, and the\s+student has 0"):
        load_teacher(teacher, rules, ["P0"], [])


def test_half_of_each_target_is_the_teacher_s(parameters):
    network = create_model("unet", {"channels": [4, 8]}, 9)
    probability = torch.rand(2, 32, 32)
    module = SegmentationModule(
        network, parameters.training, 1, 0.001, 0.5, 0, teacher=lambda _: probability
    )
    module._log = lambda *_: None
    batch = {"image": torch.randn(2, 9, 32, 32), "mask": torch.randint(0, 2, (2, 32, 32))}
    # Worked out beside the loss: soft targets of pixels, then the same weights as without teacher.
    target = 0.5 * batch["mask"] + 0.5 * probability
    expected = module.loss(network(batch["image"]), target)
    assert module.training_step(batch, 0).item() == pytest.approx(expected.item())


def test_a_student_of_another_size_learns_from_it(teacher, parameters, synthetic_slices, tmp_path):
    known = dataclasses.replace(teacher, metadata=teacher.metadata | {"val_patients": ["P0"]})
    known.save(tmp_path / "teacher.ckpt")
    changes = {"epochs": 1, "batch_size": 4, "accelerator": "cpu", "precision": "32"}
    config = TrainingConfig(
        model_name="unet",
        model_options={"channels": [2, 4]},
        preprocessing=parameters.preprocessing.model_copy(update={"image_size": 32, "context": 1}),
        training=parameters.training.model_copy(
            update=changes | {"teacher": str(tmp_path / "teacher.ckpt")}
        ),
        seed=1,
    )
    partitions = [synthetic_slices(patients=n, slices=4) for n in (4, 1)]
    slices = [Partition(p.images, p.masks) for p in partitions]
    student, _ = fit_model(config, *slices, tmp_path / "workspace")
    assert student.model_config["channels"] == [2, 4]

    # Another teacher under the same name makes another training of it.
    weights = {name: value + 1 for name, value in known.weights.items()}
    dataclasses.replace(known, weights=weights).save(tmp_path / "teacher.ckpt")
    resumed = config.training.model_copy(update={"resume": "auto"})
    with pytest.raises(InputError, match=r"another one:\n  teacher: \w+ there, \w+ now"):
        fit_model(dataclasses.replace(config, training=resumed), *slices, tmp_path / "workspace")
    assert student.weights.keys() == student.build().state_dict().keys()  # the student's alone
    assert isinstance(student.metadata["training"]["teacher"], str)
