"""What tests of the GPU's code rely on: the stand-in for CuPy and the CUDA execution model on the host."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hostcuda import stand_in

KERNELS = (Path(__file__).parent / "hostcuda/kernels.cu").read_text()


@pytest.fixture(scope="module")
def cupy():
    with stand_in() as module:
        yield module


@pytest.fixture(scope="module")
def kernels(cupy):
    """Kernels of hostcuda/kernels.cu, by name; with together=True for a cooperative launch."""
    modules = [cupy.RawModule(code=KERNELS, enable_cooperative_groups=together) for together in (False, True)]
    return lambda name, together=False: modules[together].get_function(name)


@pytest.fixture(params=["in turns", "random"])
def order(request, monkeypatch):
    monkeypatch.setenv("TR_SHIM_RANDOM", "1" if request.param == "random" else "")


def ints(cupy, *shape):
    return cupy.zeros(shape, np.int32)


# -- the execution model


def test_places_of_threads(cupy, kernels):
    y = ints(cupy, 12 * 30)
    kernels("places")((2, 3, 2), (5, 3, 2), (y,))
    np.testing.assert_array_equal(y.get().reshape(12, 30), 1000 * np.arange(12)[:, None] + np.arange(30))


@pytest.mark.usefixtures("order")
def test_barriers(cupy, kernels):
    x = np.random.default_rng(0).integers(0, 100, (3, 128)).astype(float)
    y = cupy.empty(3)
    kernels("sum")((3,), (128,), (cupy.asarray(x), y, np.int32(1)), shared_mem=128 * 8)
    np.testing.assert_array_equal(y.get(), x.sum(1))


def test_a_missing_barrier_shows_in_random_order(cupy, kernels, monkeypatch):
    x = np.random.default_rng(0).integers(0, 100, (1, 128)).astype(float)
    wrong = 0
    for seed in range(10):
        monkeypatch.setenv("TR_SHIM_RANDOM", str(seed))
        y = cupy.empty(1)
        kernels("sum")((1,), (128,), (cupy.asarray(x), y, np.int32(0)), shared_mem=128 * 8)
        wrong += y.item() != x.sum()
    assert wrong


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("ones", [0, 7, 32])
def test_votes(cupy, kernels, ones):
    x = np.arange(32, dtype=np.int32) < ones
    y = ints(cupy, 32, 4)
    kernels("votes")((1,), (32,), (cupy.asarray(x.astype(np.int32)), y))
    np.testing.assert_array_equal(y.get()[:, :3], [[ones, ones > 0, ones == 32]] * 32)
    assert (y.get()[:, 3].view(np.uint32) == sum(1 << i for i in range(ones))).all()


@pytest.mark.usefixtures("order")
def test_ended_threads_are_not_waited_for(cupy, kernels):
    y = ints(cupy, 100)
    kernels("leavers")((1,), (100,), (y,))
    np.testing.assert_array_equal(y.get(), np.where(np.arange(100) % 3, 0, 34))


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("width", [32, 16, 4])
@pytest.mark.parametrize("by", [1, 3, 16])
def test_shuffles(cupy, kernels, width, by):
    x = np.arange(64, dtype=np.float32) + 100
    y = cupy.empty((4, 64), np.float32)
    kernels("shuffles")((1,), (64,), (cupy.asarray(x), y, np.int32(width), np.int32(by)))
    lane = np.arange(64)
    base = lane // width * width
    sources = [
        base + by % width,
        np.where(lane - by < base, lane, lane - by),
        np.where(lane + by >= base + width, lane, lane + by),
        np.where(lane ^ by >= base + width, lane, lane ^ by),
    ]
    np.testing.assert_array_equal(y.get(), x[np.array(sources)])


@pytest.mark.usefixtures("order")
def test_shuffles_of_half_warps(cupy, kernels):
    x = np.arange(64, dtype=np.int32)
    y = ints(cupy, 64)
    kernels("half_warps")((1,), (64,), (cupy.asarray(x), y))
    np.testing.assert_array_equal(y.get(), x.reshape(4, 16).sum(1).repeat(16))


def test_a_lane_without_partner_gets_nan(cupy, kernels):
    y = cupy.zeros(16, np.float32)
    kernels("no_partner")((1,), (32,), (y,))
    assert np.isnan(y.get()).all()


@pytest.mark.usefixtures("order")
def test_atomics(cupy, kernels):
    i, l = ints(cupy, 4), cupy.zeros(1, np.uint64)  # noqa: E741
    f, d = cupy.zeros(1, np.float32), cupy.zeros(1)
    kernels("atomics")((3,), (40,), (i, l, f, d))
    np.testing.assert_array_equal(i.get(), [120, 39, 0, 120])
    assert (l.item(), f.item(), d.item()) == (120 << 32, 60, 30)


@pytest.mark.usefixtures("order")
def test_a_barrier_of_the_grid(cupy, kernels):
    y = ints(cupy, 8, 48)
    kernels("ring", together=True)((8,), (48,), (cupy.zeros(1, np.uint32), ints(cupy, 8), y))
    np.testing.assert_array_equal(y.get(), np.roll(10 * np.arange(8), -1)[:, None].repeat(48, 1))


@pytest.mark.usefixtures("order")
def test_fibers_of_the_c_library(cupy):
    """What machines other than x86-64 switch with."""
    module = cupy.RawModule(code=KERNELS, options=("-DTR_SHIM_UCONTEXT",), enable_cooperative_groups=True)
    y = ints(cupy, 8, 48)
    module.get_function("ring")((8,), (48,), (cupy.zeros(1, np.uint32), ints(cupy, 8), y))
    np.testing.assert_array_equal(y.get(), np.roll(10 * np.arange(8), -1)[:, None].repeat(48, 1))


def test_endless_spins_are_reported(cupy, kernels):
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match=r"kernel 'ring': threads spin.*cooperative launch only"):
        kernels("ring")((8,), (48,), (cupy.zeros(1, np.uint32), ints(cupy, 8), ints(cupy, 8 * 48)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stuck", r"'stuck': deadlock.*3 in __syncthreads.*5 in __syncwarp.*0 of 8 have ended"),
        ("disagree", r"'disagree'.*the lanes of a warp are in different exchanges"),
        ("two_barriers", r"'two_barriers'.*thread \(3, 0, 0\): the threads of a block are at different barriers"),
        ("outside_the_mask", r"'outside_the_mask'.*thread \(1, 0, 0\): .*mask leaves it out"),
    ],
)
def test_deadlocks_are_reported(cupy, kernels, name, message):
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match=message):
        kernels(name)((1,), (8,), (cupy.empty(1, np.float32),) if name == "disagree" else ())


def test_shared_memory(cupy, kernels):
    y = cupy.zeros(8, np.float32)
    kernels("unwritten_shared")((1,), (8,), (y,), shared_mem=32)
    assert np.isnan(y.get()).all()
    kernels("past_shared")((1,), (1,), (np.int32(99),), shared_mem=100)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="past its 100 bytes of shared memory"):
        kernels("past_shared")((1,), (1,), (np.int32(100),), shared_mem=100)


def test_unset_variables_are_not_zero(cupy, kernels):
    if not cupy._raw.filling():
        pytest.skip("needs a compiler with -ftrivial-auto-var-init")
    y = cupy.zeros(1, np.float32)
    kernels("unset_variable")((1,), (1,), (y, np.int32(3)))
    assert y.item() == 3
    kernels("unset_variable")((1,), (1,), (y, np.int32(0)))
    assert abs(y.item()) > 1e30


def test_writes_next_to_an_array_are_reported(cupy, kernels):
    y = cupy.zeros(8, np.float32)
    kernels("past_array")((1,), (1,), (y, np.int32(7)))
    for n in (-1, 8):
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="wrote next to the array of argument 0"):
            kernels("past_array")((1,), (1,), (cupy.zeros(8, np.float32), np.int32(n)))


def bf16(x):
    """The upper halves of float32, as the bits and as float32."""
    bits = np.asarray(x, np.float32).view(np.uint32) >> 16
    return bits.astype(np.uint16), (bits << 16).view(np.float32)


def test_mma_bf16(cupy, kernels):
    rng = np.random.default_rng(0)
    (a_bits, a), (b_bits, b) = (bf16(rng.standard_normal(shape)) for shape in ((16, 16), (8, 16)))
    c, d = rng.standard_normal((16, 8)).astype(np.float32), cupy.empty((16, 8), np.float32)
    kernels("mma_bf16")((1,), (32,), (cupy.asarray(a_bits), cupy.asarray(b_bits), cupy.asarray(c), d))
    np.testing.assert_allclose(d.get(), c + a.astype(float) @ b.T.astype(float), rtol=1e-6, atol=1e-6)


def test_mma_tf32(cupy, kernels):
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8)))
    d = cupy.empty((16, 8), np.float32)
    kernels("mma_tf32")((1,), (32,), (cupy.asarray(a), cupy.asarray(b), cupy.asarray(c), d))
    cut = [(x.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(float) for x in (a, b)]
    np.testing.assert_allclose(d.get(), c + cut[0] @ cut[1].T, rtol=1e-6, atol=1e-6)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="a warp that is not whole"):
        kernels("mma_tf32")((1,), (31,), (cupy.asarray(a), cupy.asarray(b), cupy.asarray(c), d))


def test_pointwise_h_is_device_text(cupy):
    code = (
        (files("tinyrnn._core") / "pointwise.h").read_text()
        + r"""
    extern "C" __global__ void apply(const double *x, double *y) {
        const int i = threadIdx.x;
        y[4 * i] = tr::device::op::tanh::f(x[i]);
        y[4 * i + 1] = tr::device::op::sqrt::f(x[i]);
        y[4 * i + 2] = tr::device::op::pow::f(x[i], 1.5);
        y[4 * i + 3] = tr::device::op::softplus::f((float)x[i]);
    }"""
    )
    x = np.linspace(0.1, 3, 32)
    y = cupy.empty((32, 4))
    cupy.RawModule(code=code, options=("-std=c++17",)).get_function("apply")((1,), (32,), (cupy.asarray(x), y))
    expected = np.stack([np.tanh(x), np.sqrt(x), x**1.5, np.logaddexp(0, x)], 1)
    np.testing.assert_allclose(y.get()[:, :3], expected[:, :3], rtol=1e-15)
    np.testing.assert_allclose(y.get()[:, 3], expected[:, 3], rtol=1e-6)


# -- kernels as CuPy has them


def test_arguments_are_compared_with_the_parameters(cupy, kernels):
    x, y, n, factor = cupy.ones(10, np.float32), cupy.empty(10, np.float32), np.int32(10), np.float64(3)
    kernels("scale")((2,), (8,), (x, y, n, factor))
    assert (y.get() == 3).all()
    for args, message in [
        ((x, y, n), "takes 4 arguments, got 3"),
        ((x, y, 10, factor), "Unsupported type <class 'int'> for argument 2"),
        ((x, y, n, 3.0), "Unsupported type <class 'float'> for argument 3"),
        ((x, y, np.int64(10), factor), "Unsupported type <class 'numpy.int64'> for argument 2"),
        ((np.ones(10, np.float32), y, n, factor), "Unsupported type <class 'numpy.ndarray'> for argument 0"),
        ((cupy.ones(10), y, n, factor), "Unsupported type an array of float64 for argument 0"),
        ((x, y, x, factor), "Unsupported type an array of float32 for argument 2"),
    ]:
        with pytest.raises(TypeError, match=message):
            kernels("scale")((2,), (8,), args)


def test_addresses_in_arrays_and_as_scalars(cupy, kernels):
    a, y = cupy.full(1, 7, np.float32), cupy.empty(1, np.float32)
    pointers = cupy.asarray(np.array([0, a.data.ptr], np.uint64))
    kernels("addresses")((1,), (1,), (pointers, np.uint64(y.data.ptr)))
    assert y.item() == 7


def test_sizes_of_a_launch(cupy, kernels):
    y = ints(cupy, 1024)
    kernels("bounded")((1,), (64,), (y,))
    for grid, block, shared in [((1,), (65,), 0), ((0,), (1,), 0), ((1, 70000), (1,), 0), ((1,), (1,), (48 << 10) + 1)]:
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
            kernels("bounded")(grid, block, (y,), shared_mem=shared)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="1025"):
        kernels("places")((1,), (1025,), (y,))
    kernel = kernels("places", together=True)
    kernel.max_dynamic_shared_size_bytes = 227 << 10
    kernel((4,), (8,), (y,), shared_mem=227 << 10)
    kernel((8,), (8,), (y,), shared_mem=113 << 10)
    for blocks, shared in ((5, 227 << 10), (9, 0)):
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="COOPERATIVE_LAUNCH_TOO_LARGE"):
            kernel((blocks,), (8,), (y,), shared_mem=shared)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        kernel.max_dynamic_shared_size_bytes = (227 << 10) + 1
    occupancy = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
    assert [occupancy(kernel.kernel.ptr, 1024, shared << 10) for shared in (0, 113, 114, 228)] == [2, 2, 1, 0]


def test_texts_that_do_not_compile(cupy):
    compile_error = cupy.cuda.compiler.CompileException
    with pytest.raises(compile_error, match=r"device text:2:.*nothing_like_it"):
        cupy.RawModule(code='\nextern "C" __global__ void f() { nothing_like_it(); }').get_function("f")
    with pytest.raises(compile_error, match="includes nothing"):
        cupy.RawModule(code="#include <cstdint>").get_function("f")
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="named symbol not found"):
        cupy.RawModule(code='// extern "C" __global__ void f() {}\n').get_function("f")
    with pytest.raises(TypeError, match="options"):
        cupy.RawModule(code="", options=["-std=c++17"])


# -- arrays as CuPy has them


def test_arrays_are_not_numpys(cupy):
    a, n = cupy.ones((2, 3)), np.ones((2, 3))
    assert not isinstance(a, np.ndarray)
    for use in [
        lambda: np.asarray(a),
        lambda: np.sum(a),
        lambda: np.add(n, a),
        lambda: n + a,
        lambda: a + a,
        lambda: bool(a),
        lambda: list(a),
        lambda: a == n,
        lambda: float(a[0, 0]),
    ]:
        with pytest.raises(TypeError):
            use()
    for use in [lambda: cupy.matmul(a, n), lambda: cupy.matmul(a, a.T, out=n), lambda: cupy.broadcast_to(n, (2, 2, 3))]:
        with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy\.ndarray'>"):
            use()
    with pytest.raises(TypeError, match="Only cupy arrays"):
        cupy.concatenate([a, n])
    with pytest.raises(ValueError, match="non-scalar"):
        a[0] = n[0]


def test_what_copies_and_what_does_not(cupy):
    n = np.arange(6.0).reshape(2, 3)
    a = cupy.asarray(n)
    n[:] = 0
    assert a.get()[1, 2] == 5
    assert cupy.asarray(a) is a
    assert cupy.asarray(a, np.float64) is a
    assert a.astype(np.float64, copy=False) is a
    got = a.get()
    got[:] = 0
    views = a[0], a.T[1], a[1, 2], a.reshape(3, 2)[2], a.ravel()[1:]
    copies = a.copy(), a.astype(np.float64), a[np.array([0, 1])], a.T.ravel(), cupy.ascontiguousarray(a.T)
    a.fill(9)
    assert all((v.get() == 9).all() for v in views)
    assert all(c.get()[-1].max() == 5 for c in copies)
    assert a[1, 2].shape == ()
    assert a[1, 2].item() == 9
    assert cupy.broadcast_to(a, (4, 2, 3)).data.ptr == a.data.ptr
    assert a[1].data.ptr == a.data.ptr + 24
    assert a.T.strides == (8, 24)
    assert (a.flags.c_contiguous, a.T.flags.c_contiguous) == (True, False)


def test_setting_and_getting(cupy):
    n = np.arange(24.0).reshape(2, 3, 4)
    a = cupy.asarray(n)
    mask = n % 5 == 0
    indices = np.array([1, 0])
    np.testing.assert_array_equal(a[cupy.asarray(mask)].get(), n[mask])
    np.testing.assert_array_equal(a[indices, :, 1].get(), n[indices, :, 1])
    np.testing.assert_array_equal(a[..., None, ::2].get(), n[..., None, ::2])
    for index in [np.s_[1, ..., 0], np.s_[:, 2], mask, indices, np.s_[1, 2, 3]]:
        a[index] = n[index] = 7
        a[index] = cupy.asarray(n[index] + 1)
        n[index] += 1
        np.testing.assert_array_equal(a.get(), n)
    with pytest.raises(ValueError, match="broadcast"):
        a[0] = cupy.ones((3, 5))
    with pytest.raises(IndexError):
        a[2]
    with pytest.raises(RuntimeError, match="overlap"):
        a[0, 1:] = a[0, :-1]


def test_fresh_memory_is_not_a_number(cupy):
    assert np.isnan(cupy.empty((3, 2), np.float32).get()).all()
    assert cupy.empty(0).data.ptr == 0
    np.testing.assert_array_equal(cupy.zeros((2, 1)).get(), [[0], [0]])
    np.testing.assert_array_equal(cupy.full(2, 3, np.int32).get(), [3, 3])
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.empty(1, object)


def test_matmul_and_concatenate(cupy):
    n = np.arange(12.0).reshape(3, 4)
    a, out = cupy.asarray(n), cupy.empty((3, 3))
    assert cupy.matmul(a, a.T, out=out) is out
    np.testing.assert_array_equal(out.get(), n @ n.T)
    np.testing.assert_array_equal(cupy.concatenate([a, a[:1]]).get(), np.concatenate([n, n[:1]]))
    with pytest.raises(ValueError, match="out is"):
        cupy.matmul(a, a.T, out=cupy.empty((3, 3), np.float32))


def test_dlpack(cupy):
    a = cupy.zeros((2, 3), np.float32)
    assert a.__dlpack_device__() == (2, 0)
    b = cupy.from_dlpack(a)
    b[0, 1] = 5
    assert a[0, 1].item() == 5
    with pytest.raises(TypeError, match="CPU arrays"):
        cupy.from_dlpack(np.zeros(3))


# -- streams, graphs, devices


def test_capture_and_replay(cupy, kernels):
    x, y = cupy.ones(10, np.float32), cupy.empty(10, np.float32)
    args = np.int32(10), np.float64(2)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        kernels("scale")((1,), (10,), (x, y, *args))
        x[...] = y
        graph = stream.end_capture()
    assert np.isnan(y.get()).all()
    for _ in range(3):
        graph.launch(stream)
    graph.launch()
    stream.synchronize()
    assert (y.get() == 16).all()
    del x
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="does not exist any more"):
        graph.launch()


def test_what_a_capture_forbids(cupy):
    a, out = cupy.ones((2, 2)), cupy.empty((2, 2))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        for use in [
            lambda: cupy.empty(1),
            lambda: cupy.matmul(a, a, out=out),
            lambda: cupy.asarray(np.ones(1)),
            lambda: a.get(),
            lambda: a.item(),
            lambda: a.copy(),
            lambda: a[np.array([1, 0])],
            stream.synchronize,
            cupy.cuda.Device().synchronize,
        ]:
            with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureUnsupported"):
                use()
        stream.end_capture()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="IllegalState"):
            stream.end_capture()


def test_the_device(cupy, monkeypatch):
    runtime, device = cupy.cuda.runtime, cupy.cuda.Device()
    assert runtime.getDeviceCount() == 1
    assert device.compute_capability == "90"
    assert device.attributes["MultiProcessorCount"] == runtime.deviceGetAttribute(16, 0) == 4
    assert device.attributes["CooperativeLaunch"]
    assert device.attributes["MaxSharedMemoryPerBlockOptin"] == 232448
    device.synchronize()
    module = cupy.RawModule(code=KERNELS)
    monkeypatch.setenv("TR_SHIM_NO_DEVICE", "1")
    for use in [
        runtime.getDeviceCount,
        cupy.cuda.Device,
        cupy.cuda.Stream,
        lambda: cupy.empty(1),
        lambda: cupy.asarray(np.ones(1)),
        lambda: module.get_function("scale"),
    ]:
        with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorInsufficientDriver"):
            use()


def test_events(cupy):
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    end.record()
    end.synchronize()
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
