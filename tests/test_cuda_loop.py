"""The GPU's time loop against the CPU's: the same programs on the same arrays, run by the stand-in for a GPU, in turns
and in a random order of its threads: TINYRNN_TEST_CUDA=host pytest tests/test_cuda_loop.py (minutes, at first).
"""

import copy
import os
import re

import numpy as np
import pytest
from loop_cases import TILINGS, assert_agrees, calls_of, device, in_one_piece, on_device
from scan_cases import RAGGED, TOLERANCE, WIDTHS, any_length, assert_same_bits, case, cell_of

import tinyrnn as tr
from tinyrnn.backend.cuda import loop
from tinyrnn.backend.cuda.looptext import pack_text
from tinyrnn.backend.cuda.text import kernels_of
from tinyrnn.cells import GRU, LSTM, MUT1, LayerNormGRU, LayerNormLSTM
from tinyrnn.search import RandomCell, random_description

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(os.environ.get("TINYRNN_TEST_CUDA") != "host", reason="runs on the stand-in for a GPU"),
]
HALF = {"tf32": 2.0**-11, "bf16": 2.0**-8}  # the largest relative error of rounding to it


@pytest.fixture(scope="module")
def cupy():
    with device() as module:
        yield module


def run(cupy, call, text, seed=""):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TR_SHIM_RANDOM", str(seed))
        return on_device(cupy, call, loop.DeviceLoop(text, call.program.columns))


def changed(text, change):
    """A copy whose text went through `change`."""
    other, source = copy.copy(text), change(text.text())
    other.text = lambda: source
    return other


def late(text):
    """The text, but the second of the blocks that share rows comes late to each level, the first to what is done before
    all steps, and the last warp of a block to each loop over elements; it should not matter."""
    warps = text.tiling.threads // 32
    block = f"for (int late = 0; late < 100 * ({text.tiling.blocks} > 1 && block == 1); late++) pause();\n"
    first = f"for (int late = 0; late < 100 * ({text.tiling.blocks} > 1 && block == 0); late++) pause();\n"
    warp = f"for (int late = 0; late < 40 * ({warps} > 1 && thread / 32 == {warps - 1}); late++) pause();\n"
    places = [
        (r"^(?=for \(int r0 = 0; r0 < rows;)", block),
        (r"^(?=unsigned int turn = 0;)", first),
        (r"^(?=for \(int [er] = [^\n]*\{$|product(_here)?<)", warp),
    ]

    def change(source):
        for place, delay in places:
            source = re.sub(place, delay, source, flags=re.M)
        return source

    return changed(text, change)


def check(cupy, pairs, tolerance, seeds=(1,)):
    """pairs: (call, text). In turns, and in the random orders of `seeds`, with the same bits."""
    pairs = [(call, late(text)) for call, text in pairs]
    with in_one_piece([text for _, text in pairs]):
        for call, text in pairs:
            found = run(cupy, call, text)
            assert_agrees(call, found, tolerance)
            for seed in seeds:
                assert_same_bits(run(cupy, call, text, seed), found)


def by_turns(calls, first):
    """Each call with one of the tilings."""
    return [(c, c.text(TILINGS[(first + k) % len(TILINGS)])) for k, c in enumerate(calls)]


# -- any cell ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WIDTHS)
def test_every_cell(cupy, name):
    """Without and with recorded states, and the reverse; one way with whole rows, the other with ragged ones, where
    the states are recorded."""
    cell, number = cell_of(name), list(WIDTHS).index(name)
    backwards = bool(number % 2)
    calls = calls_of(cell, case(cell, WIDTHS[name], reverse=backwards))
    calls += calls_of(cell, case(cell, WIDTHS[name], lengths=RAGGED, reverse=not backwards))[1:]
    check(cupy, by_turns(calls, number), TOLERANCE["float64"], seeds=(number,))


@pytest.mark.parametrize("seed", range(16))
def test_random_cells(cupy, seed):
    rng = np.random.default_rng(seed)
    description = random_description(rng, inputs=1 + seed % 2, ops=(8, 20))
    dtype = ["float64", "float32"][seed // 2 % 2]
    cell = RandomCell(description, 3, [1, 3, 5, 9][seed % 4], dtype=dtype, rng=rng)
    lengths = [None, [6, 2, 0, 5, 6, 6, 1]][seed % 2]
    task = case(cell, (3,) * description.inputs, rows=7, lengths=lengths, reverse=seed % 3 == 0)
    check(cupy, by_turns(calls_of(cell, task), seed), TOLERANCE[dtype], seeds=(seed,))


@pytest.mark.parametrize("name", ["GRU", "layer_norm_lstm"])
@any_length
def test_second_order(cupy, name, lengths):
    cell = cell_of(name)
    calls = calls_of(cell, case(cell, WIDTHS[name], lengths=lengths), order=2)
    assert len(calls) > 3
    check(cupy, by_turns(calls, 1), TOLERANCE["float64"])


@pytest.mark.parametrize("name", ["LSTM", "GRU", "LSTM-projected", "LayerNormGRU", "blocks", "four_products_in_a_row"])
@any_length
def test_single_precision(cupy, name, lengths):
    cell = cell_of(name, "float32")
    calls = calls_of(cell, case(cell, WIDTHS[name], lengths=lengths, reverse=lengths is None))
    check(cupy, by_turns(calls, 2), TOLERANCE["float32"])


# -- tilings -----------------------------------------------------------------------------------------------------------


def wide(kind, dtype="float64", rows=11, steps=3, lengths=None, size=21, hoists=True):
    cell = kind(3, size, dtype=dtype, rng=0)
    return calls_of(cell, case(cell, steps=steps, rows=rows, lengths=lengths), hoists=hoists)


TILED = [  # as TILINGS, for 11 rows
    (1, 11, 16, 256, 256, True),  # all rows at once, in one block
    (1, 11, 3, 4, 32, False),  # several chunks of rows, and of k
    (2, 3, 4, 8, 64, True),  # four tiles of rows, the last one short; a chunk larger than a tile
    (3, 6, 2, 12, 96, False),
    (4, 7, 4, 20, 128, True),
    (8, 11, 5, 256, 64, False),  # 3 units a block: the last one has none
    (8, 11, 4, 256, 32, True, True),
    (2, 4, 16, 8, 128, True, True),
]


@pytest.mark.parametrize("kind", [LSTM, GRU, LayerNormLSTM, MUT1])
def test_products_that_add_themselves_to_columns_of_another(cupy, kind):
    """Which a plan makes that does not hoist, as none for a GPU does today."""
    calls = wide(kind, hoists=False)[:2]
    check(cupy, [(c, c.text(tiling)) for c in calls for tiling in TILED], TOLERANCE["float64"], seeds=(1, 2))


@pytest.mark.parametrize("kind", [LSTM, GRU, LayerNormLSTM])
def test_every_tiling(cupy, kind):
    calls = wide(kind, lengths=[3, 1, 2, 3, 0, 3, 3, 2, 1, 3, 3] if kind is GRU else None)[1:]
    check(cupy, [(c, c.text(tiling)) for c in calls for tiling in TILED], TOLERANCE["float64"], seeds=(1, 2))


def test_bits_do_not_depend_on_the_tiles_of_rows(cupy):
    """Nor on the rows at a time: a row's sums run over the same k in the same order."""
    for call in wide(LayerNormGRU, size=6)[1:]:
        texts = [call.text((2, rows, chunk, 8, 64, True)) for rows, chunk in ((11, 4), (6, 3), (3, 1))]
        first, *others = (run(cupy, call, text) for text in texts)
        for other in others:
            assert_same_bits([v.of(other).copy() for v in call.results()], [v.of(first).copy() for v in call.results()])


@any_length
def test_a_program_by_itself(cupy, lengths):
    """As a plan runs it: the tiling is chosen, and the loop compiled once for a batch up to the next power of two."""
    cell = cell_of("LSTM")
    for rows in (4, 3):
        task = case(cell, rows=4, lengths=lengths)
        for call in calls_of(cell, task.rows(list(range(rows)))):
            for _ in range(2):
                found = on_device(cupy, call, lambda *given: loop.run_loop(call.program, *given))  # noqa: B023
                assert_agrees(call, found, TOLERANCE["float64"])
            assert len(call.program.on_device) == 1


def test_a_block_that_does_not_fit(cupy):
    call = wide(LSTM)[0]
    with pytest.raises(RuntimeError, match=r"a block of 2048 threads and \d+ bytes of shared memory does not fit"):
        run(cupy, call, call.text((1, 11, 4, 256, 2048, True)))


# -- rounded operands --------------------------------------------------------------------------------------------------

ROUNDED = [
    (1, 11, 16, 16, 64, True),
    (3, 6, 16, 16, 96, False),
    (2, 11, 16, 32, 64, True),
    (4, 11, 16, 256, 64, True, True),
]
either_storage = pytest.mark.parametrize("storage", HALF)


@either_storage
@pytest.mark.parametrize("kind", [LSTM, GRU, LayerNormLSTM])
def test_rounded_operands(cupy, kind, storage):
    """A few roundings away from float32, and not none."""
    calls = wide(kind, "float32", lengths=[3, 1, 2, 3, 0, 3, 3, 2, 1, 3, 3] if kind is GRU else None)[1:]
    pairs = [(c, c.text(tiling, storage)) for c in calls for tiling in ROUNDED]
    check(cupy, pairs, 8 * HALF[storage])
    with pytest.raises(AssertionError):
        assert_agrees(calls[0], run(cupy, *pairs[0]), HALF[storage] / 64)


def as_numbers(call, tiling, storage):
    """The text whose products find their left sides as numbers, and round them themselves."""
    text = call.text(tiling, storage)
    text.operand_of.clear()
    text.operands.clear()
    return text


@either_storage
@pytest.mark.parametrize(
    "name", ["LSTM", "GRU", "LSTM-projected", "blocks", "heads", "four_products_in_a_row", "masked"]
)
def test_left_sides_rounded_where_they_are_made(cupy, name, storage):
    """To the same bits as where they are read."""
    cell, number = cell_of(name, "float32"), list(WIDTHS).index(name)
    calls = calls_of(cell, case(cell, WIDTHS[name]))
    calls += calls_of(cell, case(cell, WIDTHS[name], lengths=RAGGED, reverse=True))
    shapes = [(2, 3, 16, 16, 64), (3, 7, 16, 32, 96)]
    tilings = [(*shapes[(number + k) % 2], number % 3 != 0) for k in range(len(calls))]
    texts = [
        call.text((*tiling, tiling[-1] and k % 2), storage)
        for k, (call, tiling) in enumerate(zip(calls, tilings, strict=True))
    ]
    others = [as_numbers(call, tiling, storage) for call, tiling in zip(calls, tilings, strict=True)]
    assert any(text.operands for text in texts)
    with in_one_piece([*map(late, texts), *others]):
        for call, text, other in zip(calls, texts, others, strict=True):
            found, expected = run(cupy, call, late(text), number), run(cupy, call, other)
            assert_same_bits(
                [v.of(found).copy() for v in call.results()], [v.of(expected).copy() for v in call.results()]
            )


@either_storage
@pytest.mark.parametrize("seed", range(6))
def test_left_sides_of_random_cells(cupy, seed, storage):
    rng = np.random.default_rng(100 + seed)
    description = random_description(rng, ops=(8, 20))
    cell = RandomCell(description, 3, [1, 3, 5][seed % 3], dtype="float32", rng=rng)
    calls = calls_of(
        cell, case(cell, (3,) * description.inputs, rows=7, lengths=[None, [6, 2, 0, 5, 6, 6, 1]][seed % 2])
    )
    tiling = (3, 4, 16, 64, 64, True)  # so deep that numbers, too, are summed in one go
    texts = [c.text((*tiling, k % 2), storage) for k, c in enumerate(calls)]
    others = [as_numbers(c, tiling, storage) for c in calls]
    with in_one_piece([*texts, *others]):
        for call, text, other in zip(calls, texts, others, strict=True):
            found, expected = run(cupy, call, text, seed), run(cupy, call, other)
            assert_same_bits(
                [v.of(found).copy() for v in call.results()], [v.of(expected).copy() for v in call.results()]
            )


def test_left_sides_that_only_products_read_are_not_kept_as_numbers():
    cell = cell_of("GRU", "float32")
    with tr.no_grad():
        call = calls_of(cell, case(cell))[0]
    assert sorted(call.text(ROUNDED[0], "float").scratch.values()) == [5, 10]  # r * h, and both gates
    for storage in HALF:
        text = call.text(ROUNDED[0], storage)
        assert [*text.scratch.values()] == [10]
        assert sorted(operand.before for operand in text.operands) == [False, True]


@either_storage
def test_operands_that_need_no_rounding(cupy, storage):
    """One step of them is float32's."""
    cell = LSTM(3, 21, dtype="float32", rng=0)
    task = case(cell, steps=1, rows=11)
    for p in cell.parameters():
        p.data = (p.data.view(np.uint32) & 0xFFFF0000).view(np.float32)
    task.state[0] = (task.state[0].view(np.uint32) & 0xFFFF0000).view(np.float32)
    calls = calls_of(cell, task)[:2]
    check(cupy, [(c, c.text(tiling, storage)) for c in calls for tiling in ROUNDED], TOLERANCE["float32"])


@pytest.mark.parametrize("size", [131, 132])
def test_long_rows(cupy, size):
    """Rows that lie at multiples of 16 bytes are read four numbers at a time."""
    calls = wide(LSTM, "float32", rows=3, steps=2, size=size)[:1]
    for storage in ("float", *HALF):
        tiling = (4, 3, 4 if storage == "float" else 16, 144, 64, storage == "bf16")
        check(cupy, [(c, c.text(tiling, storage)) for c in calls], 8 * HALF.get(storage, TOLERANCE["float32"] / 8))


@either_storage
def test_rounding(cupy, storage):
    """To the nearest of two neighbours, the even one of two as near; beyond the largest to infinity; NaN stays."""
    bits, step = {"bf16": (16, np.uint16), "tf32": (13, np.uint32)}[storage]
    rng = np.random.default_rng(0)
    x = (rng.normal(size=200) * 10.0 ** rng.integers(-30, 30, 200)).astype(np.float32)
    ties = ((rng.integers(1, 0x7F00, 40).astype(np.uint32) << 16) + (1 << (bits - 1))).view(np.float32)
    x = np.concatenate([x, ties, -ties, np.float32([0, -0.0])])
    low = x.view(np.uint32) >> bits << bits
    below, above = (abs(x - n.view(np.float32).astype(float)) for n in (low, low + (1 << bits)))
    up = (above < below) | ((above == below) & (low >> bits & 1 == 1))
    expected = np.where(up, low + (1 << bits), low)
    x = np.concatenate([x, np.float32([np.inf, -np.inf, np.finfo(np.float32).max, np.nan])])
    expected = np.concatenate([expected, np.float32([np.inf, -np.inf, np.inf]).view(np.uint32)])
    n = x.size
    out = cupy.empty((n, 1), step)
    sizes = map(np.int32, (1, 1, n, n, 0, 1))
    pack = kernels_of(pack_text("float", storage)).get_function("pack")
    pack((n,), (32,), (out, cupy.asarray(x.reshape(1, n)), np.int64(n), np.int64(1), *sizes))
    found = out.get().reshape(n).astype(np.uint32) << (16 if storage == "bf16" else 0)
    np.testing.assert_array_equal(found[:-1], expected)
    assert np.isnan(found.view(np.float32)[-1])


def test_precision_of_products(cupy):
    """`set_precision` is for float32 alone; another precision is another loop."""
    single, double = wide(LSTM, "float32")[0], wide(LSTM)[0]
    assert tr.get_precision() == "float32"
    try:
        for k, precision in enumerate(("float32", "tf32", "bf16")):
            tr.set_precision(precision)
            assert tr.get_precision() == precision
            found = on_device(cupy, single, lambda *given: loop.run_loop(single.program, *given))
            assert_agrees(single, found, 8 * HALF.get(precision, TOLERANCE["float32"] / 8))
            assert len(single.program.on_device) == k + 1
            found = on_device(cupy, double, lambda *given: loop.run_loop(double.program, *given))
            assert_agrees(double, found, TOLERANCE["float64"])
            assert len(double.program.on_device) == 1
        with pytest.raises(ValueError, match="precision must be one of float32, tf32, bf16, got 'fp16'"):
            tr.set_precision("fp16")
    finally:
        tr.set_precision("float32")


# -- that these tests can fail -----------------------------------------------------------------------------------------


def without(text, wait, number, instead):
    """The text with one of its waits left out."""
    parts = text.text().split(wait)
    head, tail = wait.join(parts[: number + 1]), wait.join(parts[number + 1 :])
    return changed(text, lambda _: head + instead + tail)


def shows(cupy, call, text, right, seeds=range(6)):
    """Whether an order of the threads is found in which the result has other bits than `right` has, or a block writes
    to another that has ended."""
    for seed in seeds:
        try:
            assert_same_bits(run(cupy, call, text, seed), right)
        except AssertionError:
            return True
        except cupy.cuda.driver.CUDADriverError as error:
            if "has ended" not in str(error):
                raise
            return True
    return False


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize(("name", "storage"), [("LSTM", "double"), ("LayerNormGRU", "double"), ("GRU", "bf16")])
def test_a_missing_wait_for_all_shows(cupy, name, storage, cluster):
    """Blocks that do not wait for each other, at any of the places where they do."""
    cell = cell_of(name, "float64" if storage == "double" else "float32")
    for call in calls_of(cell, case(cell, rows=3))[1:]:
        text = late(call.text((3, 3, 2, 4 if storage == "double" else 16, 32, True, cluster), storage))
        wait = "wait_in_cluster<3>();" if cluster else "wait_for_all(counters + tile, 3, turn);"
        broken = [without(text, wait, k, "__syncthreads();") for k in range(text.text().count(wait))]
        assert broken
        with in_one_piece([text, *broken]):
            right = run(cupy, call, text)
            assert [k for k, one in enumerate(broken) if not shows(cupy, call, one, right)] == []


def test_a_missing_barrier_shows(cupy):
    """Elements that do not wait for the product behind which they come."""
    cell = cell_of("LSTM")
    call = calls_of(cell, case(cell))[0]
    text = late(call.text((2, 4, 2, 4, 64, True)))
    right = run(cupy, call, text)
    assert_agrees(call, right, TOLERANCE["float64"])
    assert not shows(cupy, call, text, right)
    # 0 is between two uses by the same threads
    assert shows(cupy, call, without(text, "__syncthreads();", 1, ""), right)
