"""Modules, parameters, cells' constructors, initial values and probes."""

import copy
import pickle
import threading

import numpy as np
import pytest

import tinyrnn as tr


class Layer(tr.Module):
    def __init__(self, size):
        super().__init__()
        self.W = tr.Parameter(np.arange(size * size, dtype=np.float64).reshape(size, size))

    def forward(self, x):
        return x @ self.W


class Model(tr.Module):
    def __init__(self):
        super().__init__()
        self.scale = tr.Parameter([2.0, 3.0])
        self.first = Layer(2)
        self.layers = [Layer(2), (Layer(3), tr.Parameter([1.0]))]
        self.table = {"a": Layer(1)}

    def forward(self, x):
        return self.first(x) * self.scale


NAMES = ["scale", "layers.1.1", "first.W", "layers.0.W", "layers.1.0.W", "table.a.W"]


def test_parameters_are_found_by_their_paths():
    model = Model()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert [p.size for p in model.parameters()] == [2, 1, 4, 4, 9, 1]
    assert [name for name, _ in model.named_parameters("net")] == [f"net.{n}" for n in NAMES]
    assert all(isinstance(p, tr.Parameter) and p.requires_grad for p in model.parameters())
    assert model.scale.name == "scale"
    assert model.scale.dtype == np.float32
    assert model.first.W.dtype == np.float64


def test_what_is_added_later_or_removed_is_seen():
    model = Model()
    model.layers.append(Layer(2))
    assert "layers.2.W" in model.state_dict()
    model.scale = None
    assert "scale" not in model.state_dict()
    del model.first
    assert "first.W" not in model.state_dict()


def test_shared_parameters_and_modules_count_once_and_cycles_end():
    model = Model()
    model.again = model.first
    model.tied = model.scale
    model.first.parent = model
    assert [name for name, _ in model.named_parameters()] == [NAMES[0], *NAMES[1:]]
    assert len(list(model.modules())) == 5


def test_assignment_before_init_is_refused():
    class Early(tr.Module):
        def __init__(self):
            self.W = tr.Parameter([1.0])

    class Never(tr.Cell):
        def __init__(self):
            self.width = 3
            self.param((3, 3))

    with pytest.raises(AttributeError, match=r"Early\.W was assigned before super\(\).__init__\(\)"):
        Early()
    with pytest.raises(AttributeError, match=r"hidden_size.*not called super\(\).__init__\(\)"):
        Never()
    with pytest.raises(AttributeError, match=r"Model has no attribute 'depth'$"):
        _ = Model().depth


def test_a_parameter_is_not_replaced_by_a_tensor_silently():
    model = Model()
    with pytest.raises(TypeError, match=r"Model\.scale is a Parameter.*would not be learned"):
        model.scale = model.scale * 2.0
    model.scale = tr.Parameter([5.0, 6.0])
    assert model.state_dict()["scale"].tolist() == [5.0, 6.0]


def test_zero_grad_forgets_gradients():
    model = Model()
    (model.scale * 2.0).sum().backward()
    assert model.scale.grad.data.tolist() == [2.0, 2.0]
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_train_and_eval_reach_every_module():
    model = Model()
    assert all(m.training for m in model.modules())
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    model.train()
    assert all(m.training for m in model.modules())


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match="Module defines no forward"):
        tr.Module()(1)


def test_state_dict_round_trip_copies():
    source, target = Model(), Model()
    for p in source.parameters():
        p.data = np.random.default_rng(0).normal(size=p.shape)
    state = source.state_dict()
    target.load_state_dict(state)
    state["scale"][:] = 0
    for name, p in target.named_parameters():
        np.testing.assert_array_equal(p.data, source.state_dict()[name], err_msg=name)
    target.scale.data[0] = 7.0
    assert source.scale.data[0] != 7.0


def test_load_state_dict_lists_everything_wrong_and_changes_nothing():
    model = Model()
    before = model.state_dict()
    state = {name: value + 1 for name, value in before.items()}
    del state["scale"]
    state["stranger"] = np.zeros(2)
    state["first.W"] = np.zeros((2, 3))
    state["layers.0.W"] = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        model.load_state_dict(state)
    message = str(error.value)
    assert "missing: scale (2,) float32" in message
    assert "unexpected: stranger (2,) float64" in message
    assert "shape of first.W: got (2, 3), needs (2, 2)" in message
    assert "dtype of layers.0.W: got float32, needs float64" in message
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(TypeError, match="state must be a dict"):
        model.load_state_dict([1, 2])


def test_loading_invalidates_graphs_that_saved_the_old_values():
    model = Model()
    loss = (model.scale * model.scale).sum()
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=r"scale.*changed in place"):
        loss.backward()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_independent(clone):
    model = tr.cells.LSTM(2, 3, rng=0)
    model.tied = model.W_xi
    twin = clone(model)
    assert repr(twin) == repr(model)
    assert twin.tied is twin.W_xi
    assert isinstance(twin.W_xi, tr.Parameter)
    np.testing.assert_array_equal(twin.W_xi.data, model.W_xi.data)
    twin.W_xi.data = np.zeros((2, 3))
    assert model.W_xi.data.any()


def test_repr_is_a_tree_with_counts():
    class Net(tr.Module):
        def __init__(self):
            super().__init__()
            self.embed = tr.nn.Embedding(1000, 8, rng=0)
            self.cell = tr.cells.LSTM(8, 4, rng=0)
            self.out = tr.nn.Linear(4, 2, rng=0)

    assert repr(Net()).splitlines() == [
        "Net()  8,218 parameters",
        "├─ embed: Embedding(1000, 8)  8,000 parameters",
        "│      W: (1000, 8) float32",
        "├─ cell: LSTM(8, 4)  208 parameters",
        "│      W_xi W_xf W_xo W_xg: (8, 4) float32",
        "│      W_hi W_hf W_ho W_hg: (4, 4) float32",
        "│      b_i b_f b_o b_g: (4,) float32",
        "└─ out: Linear(4, 2)  10 parameters",
        "       W: (4, 2) float32",
        "       b: (2,) float32",
    ]


# -- cells -------------------------------------------------------------------------------------------------------------


def test_cell_param_takes_callables_numbers_and_arrays():
    cell = tr.Cell(2, 16, dtype="float64", rng=0)
    default = cell.param((50, 50))
    assert default.dtype == np.float64
    assert -0.25 <= default.data.min() < -0.24
    assert 0.24 < default.data.max() <= 0.25
    assert cell.param(3, init=1.5).data.tolist() == [1.5] * 3
    assert cell.param(2, init=[1, 2]).data.tolist() == [1.0, 2.0]
    assert cell.param((2, 2), init=tr.init.identity).data.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match=r"init must give shape \(3,\), got \(2,\)"):
        cell.param(3, init=np.zeros(2))
    with pytest.raises(ValueError, match="must be a positive int, got 0"):
        cell.param((2, 0))


def test_a_seed_gives_the_same_cell_in_both_dtypes():
    one, two = tr.cells.GRU(3, 5, rng=7), tr.cells.GRU(3, 5, rng=np.random.default_rng(7))
    double = tr.cells.GRU(3, 5, rng=7, dtype="float64")
    for (_, a), (_, b), (_, c) in zip(
        one.named_parameters(), two.named_parameters(), double.named_parameters(), strict=True
    ):
        np.testing.assert_array_equal(a.data, b.data)
        np.testing.assert_array_equal(a.data, c.data.astype(np.float32))


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((0, 3), {}, ValueError, "input_size must be a positive int, got 0"),
        ((3, -1), {}, ValueError, "hidden_size must be a positive int, got -1"),
        ((3, 2.0), {}, TypeError, "hidden_size must be a positive int, got 2.0"),
        ((3, True), {}, TypeError, "hidden_size must be a positive int, got True"),
        ((3, 2), {"dtype": "int8"}, TypeError, "dtype must be float32 or float64"),
        ((3, 2), {"rng": "seed"}, TypeError, "rng must be a numpy.random.Generator"),
        ((3, 2), {"rng": -1}, TypeError, "rng must be a numpy.random.Generator"),
    ],
)
def test_cell_arguments_are_checked(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        tr.Cell(*arguments, **keywords)


@pytest.mark.parametrize("states", ["h", (), ("h", 1), ["h"], ("h", "h")])
def test_states_must_be_a_tuple_of_names(states):
    with pytest.raises(TypeError, match=r"Wrong\.states must be"):
        type("Wrong", (tr.Cell,), {"states": states})


def test_initial_state_is_zeros_of_the_cells_widths():
    class Wide(tr.Cell):
        states = ("h", "m")

        @property
        def state_sizes(self):
            return (self.hidden_size, 2 * self.hidden_size)

    h, m = Wide(1, 3, dtype="float64").initial_state(4)
    assert (h.shape, m.shape, h.dtype) == ((4, 3), (4, 6), np.float64)
    assert not h.data.any()
    assert not h.requires_grad


# -- initial values ----------------------------------------------------------------------------------------------------


def draw(init, shape, dtype=np.float64, **options):
    values = init(np.random.default_rng(1), shape, dtype, **options)
    assert values.shape == shape
    assert values.dtype == dtype
    return values


def test_initial_values_have_their_distributions():
    assert not draw(tr.init.zeros, (2, 3)).any()
    assert (draw(tr.init.constant, (2, 3), np.float32, value=2.5) == 2.5).all()
    u = draw(tr.init.uniform, (400, 400), low=-1.0, high=3.0)
    assert u.min() >= -1
    assert u.max() < 3
    assert abs(u.mean() - 1.0) < 0.02
    assert abs(u.std() - 4 / 12**0.5) < 0.01
    n = draw(tr.init.normal, (400, 400), mean=1.0, std=0.5)
    assert abs(n.mean() - 1.0) < 0.01
    assert abs(n.std() - 0.5) < 0.01
    g = draw(tr.init.glorot, (300, 100))
    assert abs(g).max() <= (6 / 400) ** 0.5
    assert abs(g.var() - 2 / 400) < 1e-4
    np.testing.assert_array_equal(draw(tr.init.identity, (2, 3), gain=2.0), [[2, 0, 0], [0, 2, 0]])


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
def test_orthogonal_is_orthogonal(shape):
    q = draw(tr.init.orthogonal, shape, gain=2.0)
    small = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(small, 4 * np.eye(min(shape)), atol=1e-12)


def test_orthogonal_is_uniform_over_signs():
    rng = np.random.default_rng(0)
    traces = [np.trace(tr.init.orthogonal(rng, (2, 2), np.float64)) for _ in range(2000)]
    assert abs(np.mean(traces)) < 0.1  # QR alone, without the signs, has a mean far from 0


def test_initial_values_reject_wrong_arguments():
    for init in (tr.init.glorot, tr.init.orthogonal, tr.init.identity):
        with pytest.raises(ValueError, match=r"needs the shape of a matrix, got \(3,\)"):
            draw(init, (3,))
    with pytest.raises(ValueError, match="low must be <= high"):
        draw(tr.init.uniform, (3,), low=1.0, high=0.0)
    with pytest.raises(ValueError, match="std must be >= 0"):
        draw(tr.init.normal, (3,), std=-1.0)


# -- probes ------------------------------------------------------------------------------------------------------------


def test_probes_collect_in_order_nest_and_end():
    a, b = tr.tensor([1.0]), tr.tensor([2.0])
    assert tr.probe("x", a) is a
    with tr.probes() as outer:
        tr.probe("x", a)
        with tr.probes() as inner:
            tr.probe("x", b)
            tr.probe("y", a)
        tr.probe("y", b)
    tr.probe("x", a)
    assert outer == {"x": [a, b], "y": [a, b]}
    assert inner == {"x": [b], "y": [a]}


def test_probes_do_not_hear_other_threads():
    a = tr.tensor([1.0])
    with tr.probes() as seen:
        thread = threading.Thread(target=tr.probe, args=("x", a))
        thread.start()
        thread.join()
    assert seen == {}


def test_probes_end_after_an_error():
    with pytest.raises(KeyError), tr.probes() as seen:
        raise KeyError
    tr.probe("x", tr.tensor([1.0]))
    assert seen == {}


# -- another of the same kind ------------------------------------------------------------------------------------------


class Scaled(tr.Cell):
    def __init__(self, input_size, hidden_size, *, scale=1.0, dtype="float32", rng=None):
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.scale = scale
        self.W = self.param((input_size, hidden_size))

    def step(self, x, h):
        return tr.tanh(self.scale * (x @ self.W) + h)


class Forgetful(tr.Cell):
    def __init__(self, input_size, hidden_size, scale, dtype="float32", rng=None):
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)


def test_another_cell_has_the_options_and_parameters_of_its_own():
    cell = Scaled(2, 3, scale=0.5, dtype="float64", rng=0)
    other = cell.another(4, rng=0)
    assert (other.input_size, other.hidden_size, other.scale, other.dtype) == (4, 3, 0.5, np.float64)
    assert other.W.shape == (4, 3)
    assert cell.options() == {"scale": 0.5}
    assert not np.array_equal(cell.another().W.data, cell.W.data)
    with pytest.raises(TypeError, match=r"does not keep its argument 'scale'.*assign self\.scale = scale"):
        Forgetful(2, 3, 1.0).another()


# -- what a cell draws -------------------------------------------------------------------------------------------------


class Noisy(tr.Cell):
    def draws(self, steps, batch):
        if not self.training:
            return ()
        return (tr.tensor(self.rng.normal(size=(steps, batch, 3)), dtype=self.dtype),)

    def step(self, x, *rest):
        noise, h = rest if self.training else (0.0, *rest)
        return tr.tanh(x + h + noise)


@pytest.mark.parametrize("lengths", [None, [4, 1]])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_cell_draws_time_inputs_once_a_run(lengths, reverse):
    xs = np.random.default_rng(0).normal(size=(4, 2, 3))
    runs = []
    for over in (tr.unroll, tr.scan, lambda *a, **k: tr.scan(*a, checkpoint_every=2, **k)):
        cell = Noisy(3, 3, dtype="float64", rng=0)
        runs.append(over(cell, xs, lengths=lengths, reverse=reverse)[0].data)
    np.testing.assert_allclose(runs[1], runs[0], atol=1e-14)
    np.testing.assert_array_equal(runs[2], runs[1])
    cell.eval()
    quiet = tr.scan(cell, xs, lengths=lengths, reverse=reverse)[0].data
    np.testing.assert_allclose(quiet, tr.unroll(cell, xs, lengths=lengths, reverse=reverse)[0].data, atol=1e-14)
    assert not np.allclose(quiet, runs[0])
    state = cell.rng.bit_generator.state
    assert "noise" not in repr(tr.explain(cell.train()))
    assert cell.rng.bit_generator.state == state


def test_what_a_cell_draws_must_fit():
    class Short(tr.Cell):
        def draws(self, steps, batch):
            return (tr.tensor(np.zeros((steps, 3)), dtype=self.dtype),)

    with pytest.raises(ValueError, match=r"Short\.draws\(4, 2\) must give tensors \(4, 2, n\) float32, got \(4, 3\)"):
        tr.scan(Short(3, 3), np.zeros((4, 2, 3), "float32"))
