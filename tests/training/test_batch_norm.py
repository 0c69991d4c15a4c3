import torch
from torch import nn

from brain_mri_segmentation.training.batch_norm import measure_batch_norm


def test_statistics_are_the_mean_over_batches_and_all_else_works_as_in_evaluation():
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1))
    network[1].running_mean.fill_(7)
    batches = [torch.tensor([0.0, 2.0]), torch.tensor([4.0, 10.0])]
    measure_batch_norm(network, (batch.view(2, 1, 1, 1) for batch in batches))
    assert network[1].running_mean.tolist() == [4]  # of means 1 and 7
    assert network[1].running_var.tolist() == [10]  # of unbiased variances 2 and 18
    assert network[1].momentum == 0.1
    assert not any(module.training for module in network.modules())


def test_a_network_without_batch_normalisation_is_not_run():
    measure_batch_norm(nn.Conv2d(1, 1, 1), iter([torch.zeros(0)]))
