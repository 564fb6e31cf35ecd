from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secant.layerwise import RankOneKron
from secant.layerwise.routing import Rule, matrix_shape, module_routes, named_routes, parse_rule, refuse_unsupported, table, with_last_layer


def rules_of(model: nn.Module) -> dict[str, str]:
    """Names that ``kron`` trains, and the reason for every matrix that it does not."""
    routes = module_routes(model)
    return {route.name: route.reason if route.rule is Rule.ADAMW else "kron" for p, route in routes.items() if p.ndim >= 2}


class Vision(nn.Module):
    """A transformer of images with its tables as parameters of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.pos_embed = nn.Parameter(torch.zeros(65, 16))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.block = nn.TransformerEncoderLayer(16, 2, 32)
        self.head = nn.Linear(16, 10)


class Named(nn.Module):
    """Layers whose names sound like tables."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "proj": nn.Linear(8, 8)})
        self.positionwise = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 8))


class NormalizedLinear(nn.Linear):
    """A layer, although its name has a norm in it."""


def test_layers_of_a_perceptron() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.LayerNorm((3, 6)), nn.Dropout(), NormalizedLinear(6, 5), RMSNorm(), nn.Linear(5, 3))
    assert rules_of(model) == {
        "1.weight": "kron",
        "2.weight": "normalization",
        "2.bias": "normalization",
        "4.weight": "kron",
        "5.scale": "normalization",
        "6.weight": "last layer",
    }


def test_kernels_are_matrices_and_embeddings_are_not() -> None:
    model = nn.ModuleList([nn.EmbeddingBag(9, 4), nn.Conv1d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv3d(4, 4, 3), nn.ConvTranspose2d(4, 2, 3), nn.LSTM(4, 5)])
    assert rules_of(model) == {
        "0.weight": "embedding",
        "1.weight": "kron",
        "2.weight": "kron",
        "3.weight": "kron",
        "4.weight": "kron",
        "5.weight_ih_l0": "kron",
        "5.weight_hh_l0": "last layer",
    }
    assert [matrix_shape(p) for p in model.parameters() if p.ndim > 2] == [(4, 6), (4, 36), (4, 108), (4, 18)]


def test_tables_of_a_vision_transformer_are_embeddings_and_its_patches_a_kernel() -> None:
    rules = rules_of(Vision())
    assert {name for name, rule in rules.items() if rule == "embedding"} == {"cls_token", "pos_embed", "relative_position_bias_table"}
    assert {name for name, rule in rules.items() if rule == "kron"} == {
        "patch_embed.weight",
        "block.self_attn.in_proj_weight",
        "block.self_attn.out_proj.weight",
        "block.linear1.weight",
        "block.linear2.weight",
    }
    assert rules["head.weight"] == "last layer"


def test_the_name_of_a_container_makes_no_embedding_of_its_layers() -> None:
    assert set(rules_of(Named()).values()) == {"kron", "last layer"}


def test_parameters_of_lists_are_matrices_and_thin_or_thick_ones_are_not() -> None:
    shapes = [(3, 4), (1, 4), (4, 1), (2, 3, 4), (0, 4), (2, 2, 2, 2)]
    model = nn.ModuleDict({"tables": nn.ParameterList(torch.ones(shape) for shape in shapes), "head": nn.Linear(4, 2)})
    assert list(rules_of(model).values()) == [
        "kron",
        "one row or column",
        "one row or column",
        "3 dimensions, no convolution",
        "no elements",
        "4 dimensions, no convolution",
        "last layer",
    ]


def test_a_shared_module_is_listed_once_and_a_weight_shared_with_an_embedding_is_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.layer, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)
            self.again, self.head.weight = self.layer, self.wte.weight

    assert rules_of(Tied()) == {"wte.weight": "embedding", "layer.weight": "kron"}


@pytest.fixture(scope="module")
def transformers() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


@pytest.mark.filterwarnings("ignore")
def test_a_gpt_with_a_tied_head_trains_its_blocks_by_kron_whichever_form_is_passed(transformers: object) -> None:
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)  # type: ignore[attr-defined]
    model = transformers.GPT2LMHeadModel(config)  # type: ignore[attr-defined]
    blocks = {f"transformer.h.{i}.{name}.weight" for i in (0, 1) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert rules_of(model) == {"transformer.wte.weight": "embedding", "transformer.wpe.weight": "embedding"} | dict.fromkeys(blocks, "kron")
    by_name = RankOneKron(model.named_parameters()).routing()
    last = "transformer.h.1.mlp.c_proj.weight"
    assert {route.name for route in by_name if route.rule is Rule.KRON} == blocks - {last}
    assert next(route.reason for route in by_name if route.name == last) == "last layer: last matrix in order"


@pytest.mark.filterwarnings("ignore")
def test_a_bert_trains_its_embeddings_and_its_tied_decoder_by_adamw(transformers: object) -> None:
    config = transformers.BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)  # type: ignore[attr-defined]
    rules = rules_of(transformers.BertForMaskedLM(config))  # type: ignore[attr-defined]
    tables = {name for name in rules if "embeddings" in name}
    assert len(tables) == 3
    assert {name: rule for name, rule in rules.items() if rule != "kron"} == dict.fromkeys(tables, "embedding")
    assert any("transform.dense" in name for name in rules)


def test_names_tell_embeddings_and_norms() -> None:
    tables = ["embed.weight", "model.embed_tokens.weight", "h.wte.weight", "tok_emb.weight", "pos_embed", "position_embeddings", "encoder.cls_token"]
    norms = ["norm.weight", "block.ln_1.weight", "layer_norm2.weight", "bn3.weight"]
    layers = ["fc.weight", "attn.qkv.weight", "position_wise.w1", "positionwise_ffn.w1", "normal.weight", "ending.weight", "linear.weight"]
    routes = named_routes([(name, torch.ones(3, 4)) for name in [*tables, *norms, *layers]])
    assert [route.reason for route in routes.values()] == ["embedding, by its name"] * 7 + ["normalization, by its name"] * 4 + ["matrix"] * 7
    assert [route.reason for route in named_routes([("conv.weight", torch.ones(3, 4, 5)), ("stem", torch.ones(2, 3, 4))]).values()] == [
        "convolution",
        "3 dimensions, no convolution",
    ]


@pytest.mark.parametrize(("names", "last"), [(["a", "b", "norm"], "b"), (["a", "b", "embed"], None), (["norm"], None)])
def test_the_last_matrix_in_order_counts_as_the_last_layer_unless_an_embedding_does(names: list[str], last: str | None) -> None:
    routes = with_last_layer(named_routes([(name, torch.ones(3, 4)) for name in names]))
    assert [route.name for route in routes.values() if route.reason.startswith("last layer")] == ([] if last is None else [last])


def bare() -> list[Tensor]:
    return [torch.ones(shape, requires_grad=True) for shape in [(3, 4), (4,), (), (4, 4), (2, 3, 3, 3), (5, 4)]]


def test_bare_parameters_are_routed_by_shape_with_one_warning_that_names_the_better_forms() -> None:
    with pytest.warns(UserWarning, match=r"Pass the model itself, or model.named_parameters\(\)") as caught:
        optimizer = RankOneKron(bare())
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(optimizer.routing()) == "\n".join(
        [
            "param 0  3x4      kron   matrix",
            "param 1  4        adamw  vector",
            "param 2  scalar   adamw  scalar",
            "param 3  4x4      kron   matrix",
            "param 4  2x3x3x3  kron   convolution",
            "param 5  5x4      adamw  last layer: last matrix in order",
        ]
    )


def test_bare_parameters_whose_rule_is_given_need_no_warning() -> None:
    a, b, c, d, e, f = bare()
    optimizer = RankOneKron([{"params": [b, c]}, {"params": [a, d, e], "rule": "kron"}, {"params": [f], "rule": Rule.ADAMW}])
    assert [route.rule.value for route in optimizer.routing()] == ["adamw", "adamw", "kron", "kron", "kron", "adamw"]
    with pytest.warns(UserWarning, match="rule='adamw' in the group of an embedding"):
        RankOneKron([{"params": [a]}, {"params": [f], "rule": "kron"}])


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3))


def test_patterns_overrule_layers_and_the_first_match_counts() -> None:
    routing = RankOneKron(net(), rules={"1.weight": "adamw", "*.weight": Rule.KRON}).routing()
    assert {route.name: (route.rule.value, route.reason) for route in routing if "weight" in route.name} == {
        "0.weight": ("kron", "rule given for '*.weight'"),
        "1.weight": ("adamw", "rule given for '1.weight'"),
        "2.weight": ("kron", "rule given for '*.weight'"),
    }


def test_a_rule_of_a_group_overrules_patterns() -> None:
    model = net()
    groups = [{"params": list(model[:2].named_parameters()), "rule": None}, {"params": [("head", model[2].weight)], "rule": "kron"}]
    assert [route.rule.value for route in RankOneKron(groups, rules={"head": "adamw", "1.weight": "kron"}).routing()] == ["kron", "adamw"] * 2 + ["kron"]


def test_added_parameters_change_no_route_and_hold_no_last_layer() -> None:
    model = net()
    optimizer = RankOneKron(model[0].named_parameters("0"), rules={"0.weight": "kron", "*.w*": "adamw"})
    optimizer.add_param_group({"params": [("new.weight", model[1].weight), ("newer", model[2].weight)]})
    assert [route.rule.value for route in optimizer.routing()] == ["kron", "adamw", "adamw", "kron"]


def test_training_goes_on_after_parameters_were_added() -> None:
    """The last matrix of the first group has a state of AdamW by then."""
    model, extra = net(), nn.Linear(4, 4)
    optimizer = RankOneKron(model.named_parameters())
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": extra.named_parameters("extra"), "lr": 0.1})
        model(extra(torch.ones(2, 4))).sum().backward()
        optimizer.step()
    routes = {route.name: route.rule.value for route in optimizer.routing()}
    assert routes["2.weight"] == "adamw"
    assert routes["extra.weight"] == "kron"
    assert int(optimizer.state[extra.weight]["step"]) == 2


def test_a_matrix_without_a_factor_is_trained_by_adamw() -> None:
    routing = RankOneKron([("big", torch.ones(9, 9)), ("tall", torch.ones(9, 3)), ("last", torch.ones(2, 2))], largest_side=8).routing()
    assert [(route.rule.value, route.reason) for route in routing[:2]] == [("adamw", "both sides above 8"), ("kron", "matrix")]


def test_a_table_of_nothing_is_empty() -> None:
    assert table([]) == ""


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RankOneKron(net(), rules={"3.*": "adamw"}), "got '3.\\*', which matches none. The names are 0.weight"),
        (lambda: RankOneKron(net(), rules={"0.*": "kron"}), "Expected a real matrix or a kernel for rule='kron', got 0.bias"),
        (lambda: RankOneKron(net(), rules={"0.weight": "muon"}), "Expected rule='kron' or rule='adamw', got 'muon'"),
        (lambda: RankOneKron([{"params": [torch.ones(3)], "rule": "kron"}]), r"got param 0 of shape \(3,\) .* Use rule='adamw'"),
        (lambda: RankOneKron([{"params": [torch.ones(3, 3)], "rule": "sgd"}]), "Leave it out to let the shape and the name decide"),
        (lambda: RankOneKron(nn.ReLU()), "got none"),
        (lambda: RankOneKron([]), "got none"),
        (lambda: parse_rule(""), "got ''"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused_with_a_remedy(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def sparse() -> Tensor:
    return torch.ones(2, 2).to_sparse().requires_grad_()


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (torch.ones(2, 2, dtype=torch.int32), "got torch.int32. Leave integer tensors out"),
        (sparse(), "Convert it with .to_dense"),
        (nn.LazyLinear(3).weight, "Run one forward pass"),
    ],
)
def test_a_parameter_that_cannot_be_trained_is_refused_with_a_remedy(parameter: Tensor, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        refuse_unsupported(parameter)
    optimizer = RankOneKron(net().named_parameters())
    with pytest.raises(TypeError, match=message):
        optimizer.add_param_group({"params": [("new", parameter)]})
    assert len(optimizer.param_groups) == 1


def test_a_lazy_model_and_a_single_tensor_are_refused_with_a_remedy() -> None:
    with pytest.raises(TypeError, match="Run one forward pass before building the optimizer"):
        RankOneKron(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(TypeError, match=r"got one tensor. Pass \[parameter\]"):
        RankOneKron(torch.ones(2, 2))  # type: ignore[arg-type]
