"""SOAP and Shampoo of the library pytorch-optimizer.

SOAP is the published algorithm, its first step included, which only sets up the eigenbases; betas, frequency and the limit on dimensions are those of the
authors' code. heavyball's, at the same settings, reached losses of 0.9 to 1.3 times its own on five small nets, each at its best learning rate, in 1.2 to 5
times the time per step. ``soap-2048`` leaves sides above 2,048 as they are, heavyball's limit: only the last layer of ``digits-conv`` has one (3,136), whose
eigenbasis makes a step 75 times as long and the training loss 0.6 times as high.

Shampoo is ``ScalableShampoo``, the form with grafting. Its defaults are made for long runs (the first inverse roots after 1,000 steps, plain SGD's step
length), so that what the record states was chosen instead: roots every 10 steps as for SOAP, step lengths of RMSProp, Nesterov momentum. Blocks of 512 and
roots by singular values took a half to a ninth of the time of blocks of 1,024 and Newton's iteration, at equal losses. Small dimensions are not merged: the
library makes one vector of a matrix with fewer elements than a block has rows, and vectors are not preconditioned. Its plain ``Shampoo`` is left out: it
diverged at learning rates of 0.03 or 0.1, and below them had twice the loss or more.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from secant.race.batch_method import batch_method
from secant.race.method import BuildOptimizer, Method, Origin
from secant.race.peers.torch_batches import ADAPTIVE_RATES, with_momentum
from secant.race.techniques import Decay, Hyperparameters

_FREQUENCY = 10
_SOAP_BETAS = (0.95, 0.95)
_SHAMPOO_BETAS = (0.9, 0.95)
_BLOCK = 512
_LARGEST_SIDE = 10_000
_LIMITED_SIDE = 2048


def _soap(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    return _soap_up_to(_LARGEST_SIDE, model, wanted)


def _limited_soap(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    return _soap_up_to(_LIMITED_SIDE, model, wanted)


def _soap_up_to(largest_side: int, model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    import pytorch_optimizer

    optimizer: Optimizer = pytorch_optimizer.SOAP(
        model.parameters(),
        lr=wanted.lr,
        betas=with_momentum(_SOAP_BETAS, wanted),
        shampoo_beta=_SOAP_BETAS[1],
        weight_decay=wanted.weight_decay or 0.0,
        precondition_frequency=_FREQUENCY,
        max_precondition_dim=largest_side,
    )
    return optimizer


def _shampoo(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    import pytorch_optimizer
    from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting

    optimizer: Optimizer = pytorch_optimizer.ScalableShampoo(
        model.parameters(),
        lr=wanted.lr,
        betas=with_momentum(_SHAMPOO_BETAS, wanted),
        moving_average_for_momentum=True,
        weight_decay=wanted.weight_decay or 0.0,
        decoupled_weight_decay=True,
        start_preconditioning_step=_FREQUENCY,
        preconditioning_compute_steps=_FREQUENCY,
        block_size=_BLOCK,
        shape_interpretation=False,
        graft_type=LayerWiseGrafting.RMSPROP,
        use_svd=True,
    )
    optimizer.register_state_dict_post_hook(_show_tensors)
    return optimizer


def _show_tensors(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Its statistics and roots are inside of objects, where nobody who counts the state would find them."""
    shown = {key: {name: vars(kept) if hasattr(kept, "__dict__") else kept for name, kept in state.items()} for key, state in state_dict["state"].items()}
    return {**state_dict, "state": shown}


def _soap_method(name: str, summary: str, build: BuildOptimizer, largest_side: int) -> Method:
    return batch_method(
        name,
        summary,
        Origin.PEER,
        build,
        ADAPTIVE_RATES,
        settings={
            "class": "pytorch_optimizer.SOAP",
            "betas": "0.95, 0.95",
            "shampoo_beta": _SOAP_BETAS[1],
            "momentum": "betas[0]",
            "eps": 1e-8,
            "precondition_frequency": _FREQUENCY,
            "max_precondition_dim": largest_side,
            "merge_dims": False,
            "precondition_1d": False,
            "correct_bias": True,
            "normalize_gradient": False,
        },
        takes_momentum=True,
        decay=Decay.DECOUPLED,
        needs=("pytorch_optimizer",),
        remedy="pip install pytorch-optimizer",
        packages=("pytorch-optimizer",),
    )


METHODS = (
    _soap_method("soap", "SOAP of pytorch-optimizer, eigenbases every 10 steps.", _soap, _LARGEST_SIDE),
    _soap_method("soap-2048", "SOAP of pytorch-optimizer, eigenbases every 10 steps, none for sides above 2,048.", _limited_soap, _LIMITED_SIDE),
    batch_method(
        "shampoo",
        "Shampoo of pytorch-optimizer with the step lengths of RMSProp, roots every 10 steps.",
        Origin.PEER,
        _shampoo,
        ADAPTIVE_RATES,
        settings={
            "class": "pytorch_optimizer.ScalableShampoo",
            "betas": "0.9, 0.95",
            "momentum": "betas[0], moving average, nesterov",
            "graft_type": "RMSPROP",
            "start_preconditioning_step": _FREQUENCY,
            "preconditioning_compute_steps": _FREQUENCY,
            "statistics_compute_steps": 1,
            "block_size": _BLOCK,
            "shape_interpretation": False,
            "inverse_exponent": "2 x dimensions",
            "roots": "singular values",
            "diagonal_eps": 1e-10,
            "matrix_eps": 1e-6,
        },
        takes_momentum=True,
        decay=Decay.DECOUPLED,
        needs=("pytorch_optimizer",),
        remedy="pip install pytorch-optimizer",
        packages=("pytorch-optimizer",),
    ),
)
