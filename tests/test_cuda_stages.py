"""How a loop's program is cut into what blocks of threads do between two waits, and how it is laid over a device; no
compiler needed."""

import re
from functools import cache

import numpy as np
import pytest
from loop_cases import TILINGS, calls_of, tiled
from scan_cases import RAGGED, WIDTHS, case, cell_of

from tinyrnn._core import kernels
from tinyrnn.backend.cuda.loop import Machine, choose, stages_of
from tinyrnn.backend.cuda.looptext import LoopText, pack_text
from tinyrnn.backend.cuda.stages import NAMES, Stages
from tinyrnn.search import RandomCell, random_description


@cache
def programs(name, lengths=False):
    """The stages of the loops of a cell: without records, with them, and the reverse."""
    cell = cell_of(name)
    return [call.stages for call in calls_of(cell, case(cell, WIDTHS[name], lengths=RAGGED if lengths else None))]


def forms(stages):
    return [[(segment.form, len(segment.actions)) for segment in segments] for segments in stages.levels]


def kinds(stages):
    return [[form for form, _ in segments] for segments in forms(stages)]


def form_of(stages, kind):
    return {a.form for a in stages.actions if NAMES[a.code["kind"]] == kind}


# -- the stages of cells -----------------------------------------------------------------------------------------------


def test_lstm():
    for stages in programs("LSTM")[:2]:
        assert kinds(stages) == [["product", "units"]]
        assert stages.levels[0][0].actions[0].stretches == 4  # a block has all gates of its units
        assert stages.wrap
    reverse = programs("LSTM")[2]
    assert kinds(reverse) == [["units"], ["product"]]
    assert not reverse.wrap  # the state's gradient comes from a block's own columns, and the level before waits


@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "ragged"])
def test_gru(lengths):
    for stages in programs("GRU", lengths)[:2]:
        assert kinds(stages) == [["product", "units"], ["product", "units"]]
    assert kinds(programs("GRU", lengths)[2]) == [["units"], ["product", "units"], ["product"]]
    for stages in programs("GRU-after", lengths)[:2]:
        assert kinds(stages) == [["product", "units"]]  # one wait a step
    assert kinds(programs("GRU-after", lengths)[2]) == [["units"], ["product"]]


def test_layer_norm():
    stages = programs("LayerNormLSTM")[0]
    assert form_of(stages, "sum") == {"fold"}  # means and variances: each block sums its units
    assert {a.form for a in stages.actions} == {"product", "units", "row", "fold"}
    # The variances of both products, the mean of the cell state, its variance; the products have no means.
    assert [sum(a.form == "fold" for s in level for a in s.actions) for level in stages.levels] == [2, 1, 1, 0]
    for action in stages.actions:
        for at, reach in action.writes:
            assert (reach == "row") == (stages.columns[at[0]] == 1)


def test_a_state_of_another_width():
    forward, reverse = programs("LSTM-projected")[0], programs("LSTM-projected")[2]
    assert forward.units == reverse.units == 5
    gates, projection = (a for a in forward.actions if a.form == "product")
    assert (gates.stretches, projection.stretches) == (4, 0)
    assert {reach for _, reach in projection.writes} == {"cross"}
    assert kinds(forward) == [["product", "units"], ["product"]]
    assert forward.wrap
    assert "elements" in kinds(reverse)[0]  # 2 columns of 5 units are added element by element


def test_columns_out_of_order():
    stages = programs("blocks")[0]
    assert form_of(stages, "gather") == {"elements"}
    assert form_of(programs("blocks")[2], "scatter_add") <= {"elements"}
    gathers = [a for a in stages.actions if NAMES[a.code["kind"]] == "gather"]
    assert {reach for a in gathers for _, reach in (*a.reads, *a.writes)} == {"cross"}


@pytest.mark.parametrize(
    ("name", "units"),
    [("LSTM", 5), ("LSTM-projected", 5), ("LSTM-most", 6), ("blocks", 6), ("memory", 6), ("one_column", 1),
     ("only_the_input", 4)],
)  # fmt: skip
def test_units(name, units):
    """The width of the states; of several, the widest of which about as many columns are multiples as of any."""
    for stages in programs(name):
        assert stages.units == units


# -- programs by hand --------------------------------------------------------------------------------------------------


def do(kind, dst, *sources, width=4, code=0, **more):
    """An instruction; dst and sources: a buffer, or a buffer and a column."""
    if kind not in kernels.KINDS:
        kind, code = "map", kernels.POINTWISE[kind][0]
    made = dict.fromkeys(kernels.INSTRUCTION_FIELDS, 0) | {"kind": kernels.KINDS[kind], "code": code, "width": width}
    for name, place in zip(("dst", "a", "b", "c"), (dst, *sources), strict=False):
        made[name], made[f"{name}_at"] = place if isinstance(place, tuple) else (place, 0)
    return made | more


X, H, NEW, T, U = range(5)  # an input, a state before and after, two tiles


def stages(*instructions, width=4, state=4):
    places = ["sequence", "before", "after", "tile", "tile"]
    columns = [width, state, state, width, width]
    return Stages(instructions, places, columns, [(H, NEW)], [NEW])


def test_one_level_without_products():
    made = stages(do("tanh", T, H), do("add", NEW, T, X))
    assert (forms(made), made.wrap) == ([[("units", 2)]], False)


def test_a_product_of_the_state_before():
    made = stages(do("product", T, H, inner=4), do("add", NEW, T, X))
    assert (forms(made), made.wrap) == ([[("product", 1), ("units", 1)]], True)
    assert not made.is_stored(made.actions[0], (T, 0))  # its reader finds it in shared memory
    assert made.is_stored(made.actions[1], (NEW, 0))


def test_a_product_waits_for_its_left_side():
    made = stages(do("tanh", T, H), do("product", U, T, inner=4), do("add", NEW, U, X))
    assert (kinds(made), made.wrap) == ([["units"], ["product", "units"]], False)
    assert made.is_stored(made.actions[0], (T, 0))


def test_a_place_is_not_written_before_others_have_read_it():
    """The second tanh takes the tile that a product still reads: it waits, and so does what reads it."""
    made = stages(
        do("tanh", T, H), do("product", U, T, inner=4), do("tanh", T, X), do("mul", NEW, T, U)
    )  # fmt: skip
    assert [a.level for a in made.actions] == [0, 1, 2, 2]
    assert made.is_stored(made.actions[1], (U, 0))  # its reader is behind another wait


def test_steps_wait_where_a_product_of_the_last_level_reads_the_state_before():
    """The new state is written in the first level; a block that is a step ahead would write what others still read."""
    early = [do("tanh", NEW, H), do("tanh", T, X), do("product", U, T, inner=4)]
    made = stages(*early, do("tanh", T, U), do("product", (U, 0), H, inner=4))
    assert made.wrap
    last = len(made.levels) - 1
    assert made.actions[-1].level == last
    assert made.actions[0].level == 0
    without = stages(*early, do("tanh", T, U))
    assert not without.wrap


def test_a_state_of_one_column():
    """Every block reads what the first one wrote a step before."""
    row = do("tanh", NEW, H, width=1)
    made = Stages(
        [row, do("add", 4, 3, H, spread=2)], ["sequence", "before", "after", "before", "after"], [4, 1, 1, 4, 4],
        [(1, 2), (3, 4)], [2, 4],
    )  # fmt: skip
    assert made.units == 4
    assert [a.form for a in made.actions] == ["row", "units"]
    assert made.wrap


def test_a_fold_is_there_a_level_later():
    made = Stages(
        [do("sum", 3, H, width=1, n=4, inner=1), do("tanh", 4, 3, width=1), do("sub", NEW, H, 4, spread=2)],
        ["sequence", "before", "after", "tile", "tile"], [4, 4, 4, 1, 1], [(H, NEW)], [NEW],
    )  # fmt: skip
    assert [(a.form, a.level, a.ready) for a in made.actions] == [("fold", 0, 1), ("row", 1, 1), ("units", 1, 1)]
    assert kinds(made) == [["units"], ["row", "units"]]
    assert not made.wrap


# -- what every plan has to keep ---------------------------------------------------------------------------------------


class Access:
    """One instruction at one column: when, and by whom. Told from the instruction and its form alone."""

    def __init__(self, made, action, buffer, column, written, added=False):
        self.action, self.buffer, self.column, self.written = action, buffer, column, written
        units, form = made.units, action.form
        row = units > 1 and made.columns[buffer] == 1
        elsewhere = form == "elements" or (form == "product" and not ((written or added) and action.stretches))
        if elsewhere or (form == "row_fold" and not written):
            self.by = "any"
        else:
            self.by = "each" if row else column % units
        # (level, place in it): a fold's result is there at the beginning of the next level
        order = [a for segment in made.levels[action.level] for a in segment.actions]
        self.when = (action.level + 1, -1) if form == "fold" and written else (action.level, order.index(action))

    def meets(self, other):
        return (self.buffer, self.column) == (other.buffer, other.column) and (self.written or other.written)

    def apart(self, other):
        return self.by != other.by or self.by == "any"


def accesses(made, action):
    """What an action touches, in its order: reads, then writes."""
    i, kind = action.code, NAMES[action.code["kind"]]
    read = {"product": i["inner"], "sum": i["width"] * i["n"], "max": i["width"] * i["n"]}.get(kind, i["width"])
    for k, name in enumerate(made.sources(i)):
        b, at, n = i[name], i[f"{name}_at"], 1 if i["spread"] >> k & 1 else read
        if kind == "gather":
            at, n = 0, made.columns[b]
        if made.places[b] != "vector":
            yield from (Access(made, action, b, c, False) for c in range(at, at + n))
    n = i["inner"] if kind == "scatter_add" else i["width"]
    for c in range(i["dst_at"], i["dst_at"] + n):
        if kind == "product" and i["add"]:
            yield Access(made, action, i["dst"], c, False, added=True)
        yield Access(made, action, i["dst"], c, True)


def check_waits(made):
    touched = {}
    for action in made.actions:
        for access in accesses(made, action):
            touched.setdefault((access.buffer, access.column), []).append(access)
    for found in touched.values():
        for k, second in enumerate(found):
            for first in found[:k]:
                if first.meets(second) and first.action is not second.action:
                    if first.apart(second):
                        assert first.when[0] < second.when[0]
                    else:
                        assert first.when < second.when
    last = len(made.levels) - 1
    for before, after in made.states:
        for c in range(made.columns[before]):
            for read in touched.get((before, c), ()):
                for write in touched.get((after, c), ()):
                    if write.written and (read.apart(write) or read.by == "each"):
                        assert last - write.when[0] + read.when[0] + made.wrap > 0
                        assert last - read.when[0] + write.when[0] + made.wrap > 0
    check_stores(made, touched)


def check_stores(made, touched):
    """What is read from elsewhere before it is written again, or wanted behind the step, is in memory."""
    for (buffer, column), found in touched.items():
        at = made.cut(buffer, column, 1)
        for k, write in enumerate(found):
            if not write.written or not at:  # the first column of a location tells for all
                continue
            later = found[k + 1 :]
            end = next((n for n, one in enumerate(later) if one.written), len(later))
            if any(read.by == "any" for read in later[:end]) or (end == len(later) and buffer in made.persistent):
                assert write.by == "any" or made.is_stored(write.action, at[0])


def every_program():
    for name in WIDTHS:
        yield from programs(name)
        yield from programs(name, lengths=True)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        description = random_description(rng, inputs=1 + seed % 2, ops=(5, 20))
        cell = RandomCell(description, 3, [1, 3, 5, 9][seed % 4], dtype="float64", rng=rng)
        task = case(cell, (3,) * description.inputs, lengths=RAGGED if seed % 3 else None)
        yield from (call.stages for call in calls_of(cell, task))


def test_all_that_meet_wait_for_each_other():
    count = 0
    for made in every_program():
        check_waits(made)
        count += 1
    assert count > 500


def test_the_check_of_waits_can_fail():
    made = stages(do("tanh", T, H), do("product", U, T, inner=4), do("add", NEW, U, X))
    check_waits(made)
    made.actions[1].level = made.actions[2].level = 0
    made.levels = [[s for level in made.levels for s in level]]
    with pytest.raises(AssertionError):
        check_waits(made)
    made = stages(do("product", T, H, inner=4), do("add", NEW, T, X))
    made.wrap = False
    with pytest.raises(AssertionError):
        check_waits(made)


# -- tilings -----------------------------------------------------------------------------------------------------------

H200 = Machine(132, 227 << 10, 8)


def gated(units, gates=4):
    """A layer's loop as large as need be: one product, and one op for each gate."""
    places, columns = ["sequence", "before", "after", "tile"], [gates * units, units, units, gates * units]
    maps = [do("tanh", (3, k * units), (3, k * units), width=units) for k in range(gates)]
    adds = [do("add", 2, (3, k * units), (3, (k + 1) * units), width=units) for k in range(gates - 1)]
    product = do("product", 3, 1, width=gates * units, inner=units)
    return Stages([product, *maps, *adds], places, columns, [(1, 2)], [2])


def chosen(made, batch, machine=H200, real="float", storage=None):
    return choose(made, machine, batch, lambda tiling: LoopText(made, tiling, real, storage or real, False, True))


@pytest.mark.parametrize("batch", [1, 2, 16, 128, 4096])
@pytest.mark.parametrize("units", [1, 5, 64, 768, 2048])
def test_a_tiling_covers_the_loop_and_fits(units, batch):
    text = chosen(gated(units), batch)
    tiling = text.tiling
    assert text.own * tiling.blocks >= units
    assert tiling.rows * tiling.tiles >= batch
    assert tiling.blocks * tiling.tiles <= H200.processors
    assert text.layout["end"] <= H200.shared


def test_weights_stay_where_they_fit():
    """A block's 4 * 8 columns of 1024 floats are 128 KB; of 4096, twice what there is, and half of that in bf16."""
    assert chosen(gated(1024), 16).tiling.resident
    assert not chosen(gated(4096), 16).tiling.resident
    assert not chosen(gated(1024), 16, real="double").tiling.resident
    assert not chosen(gated(1792), 16).tiling.resident
    assert chosen(gated(1792), 16, storage="bf16").tiling.resident
    assert not chosen(gated(128), 16, Machine(4, 48 << 10)).tiling.resident


def test_small_cells_stay_in_clusters():
    """Where the weights fit one, and there are any."""
    for batch in (1, 16, 128):
        tiling = chosen(gated(128), batch).tiling
        assert tiling.cluster
        assert tiling.blocks <= H200.cluster
        assert not chosen(gated(128), batch, Machine(132, 227 << 10)).tiling.cluster
    assert not chosen(gated(1024), 16).tiling.cluster  # 16 MB of weights


def test_no_tiling_fits():
    with pytest.raises(ValueError, match="a step of 64 units needs more shared memory than the 512 bytes there are"):
        chosen(gated(64), 16, Machine(132, 512))


def test_places_in_shared_memory_do_not_meet():
    for name in ("LSTM", "GRU", "LayerNormLSTM", "blocks"):
        for made in programs(name):
            for tiling in TILINGS:
                text = LoopText(made, tiled(4, *tiling), "float", "float", False, True)
                starts = list(text.layout.values())
                assert starts == sorted(starts)
                assert all(at % 128 == 0 for at in starts)


# -- texts -------------------------------------------------------------------------------------------------------------


def test_texts_include_nothing():
    texts = [pack_text(real, storage) for real, storage in (("double", "double"), ("float", "bf16"))]
    for name in WIDTHS:
        for made in programs(name):
            texts += [LoopText(made, tiled(4, *TILINGS[2]), *of, False, True).text()
                      for of in (("double", "double"), ("float", "tf32"))]  # fmt: skip
    for text in texts:
        assert "#" not in text
        assert not re.search(r"\bstd::|\bint(32|64)_t\b|__shared__", text)
        assert text.count("{") == text.count("}")


def test_stages_of_a_program():
    """The states' pairs, in either form, and what is wanted behind the loop."""
    cell = cell_of("LSTM")
    for lengths in (None, RAGGED):
        for call in calls_of(cell, case(cell, lengths=lengths)):
            made, specs = stages_of(call.program), call.program.buffers
            assert len(made.states) >= 2
            for before, after in made.states:
                assert specs[before].columns == specs[after].columns == 5
                assert made.places[before] in ("before", "sequence")
            results = {b for b, spec in enumerate(specs) if spec.place == "after"}
            rows = {b: spec.source[0] for b, spec in enumerate(specs) if spec.place == "sequence"}
            results |= {b for b, source in rows.items() if source in ("state", "keep")}
            assert results <= made.persistent
