"""One thread for every test: the machines that run them share two cores, and sums in one order are what bit-identity is tested on."""

import torch

torch.set_num_threads(1)
