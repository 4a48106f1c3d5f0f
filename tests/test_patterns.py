"""The usage patterns, against loops over single rows, finite differences, and decoding against teacher forcing."""

import functools

import numpy as np
import pytest

import tinyrnn as tr
from tinyrnn.nn import RNN, Acceptor, Embedding, Encoder, EncoderDecoder, Linear, Transducer

T, B, I, H, C, IDS = 5, 4, 3, 4, 3, 7  # noqa: E741
LENGTHS = [2, 5, 0, 3]
START, STOP = 0, 1

ragged_or_not = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)


def stack(make=tr.cells.GRU, inputs=I, hidden=H, layers=1, seed=0, **options):
    rng = np.random.default_rng(seed)
    return RNN(lambda n: make(n, hidden, dtype="float64", rng=rng), layers, input_size=inputs, **options)


def embedding(seed=3, **options):
    return Embedding(IDS, I, dtype="float64", rng=seed, **options)


def features(rows=B, seed=1):
    return np.random.default_rng(seed).normal(size=(T, rows, I))


def some_ids(*shape, seed=2):
    return np.random.default_rng(seed).integers(0, IDS, shape or (T, B))


def translator(make=tr.cells.LSTM, layers=2, bidirectional=False, batch_first=False, merge="concat", outputs=IDS):
    """An untrained encoder-decoder of ids whose readout is large enough that its choices differ."""
    options = {"layers": layers, "batch_first": batch_first}
    encoder = Encoder(stack(make, bidirectional=bidirectional, merge=merge, **options), embedding=embedding())
    hidden = 2 * H if bidirectional and merge == "concat" else H
    decoder = Transducer(stack(make, hidden=hidden, seed=5, **options), outputs, embedding=embedding(6))
    decoder.readout.W.data *= 8
    return EncoderDecoder(encoder, decoder).eval()


# -- acceptors ---------------------------------------------------------------------------------------------------------


def pooled(ys, pool):
    """What is read of one row's outputs (n, width); the backward half's last is that of step 0."""
    if len(ys) == 0:
        return np.zeros(ys.shape[1])
    if pool == "last":
        return np.concatenate([ys[-1, :H], ys[0, H:]])
    return ys.max(axis=0) if pool == "max" else ys.mean(axis=0)


@pytest.mark.parametrize("pool", ["last", "max", "mean"])
@pytest.mark.parametrize("steps", [T, 0])
@ragged_or_not
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_acceptor_reads_each_row_by_itself(pool, steps, lengths, bidirectional):
    rnn = stack(bidirectional=bidirectional)
    model = Acceptor(rnn, C, pool=pool)
    xs, ends = features()[:steps], None if lengths is None else np.minimum(lengths, steps)
    logits = model(xs, ends)
    assert logits.shape == (B, C)
    for b, n in enumerate([steps] * B if ends is None else ends):
        ys = rnn(xs[:n, b : b + 1])[0].data[:, 0]
        same(logits.data[b], pooled(ys, pool) @ model.readout.W.data + model.readout.b.data)
    turned = Acceptor(stack(bidirectional=bidirectional, batch_first=True), C, pool=pool)
    turned.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(turned(xs.transpose(1, 0, 2), ends).data, logits.data)


def test_an_embedding_may_be_any_module_or_none():
    words, ids = embedding(), some_ids()
    of_ids = Acceptor(stack(), C, embedding=words, rng=1)
    of_features = Acceptor(stack(), C, rng=1)
    np.testing.assert_array_equal(of_ids(ids).data, of_features(words(ids)).data)
    linear = Linear(6, I, dtype="float64", rng=0)
    xs = np.random.default_rng(0).normal(size=(T, B, 6))
    projected = Acceptor(stack(), C, embedding=linear, rng=1)
    np.testing.assert_array_equal(projected(xs).data, of_features(linear(xs)).data)
    assert sorted({name.split(".")[0] for name, _ in projected.named_parameters()}) == ["embedding", "readout", "rnn"]


def test_dropout_acts_before_the_readout_in_training_only():
    for model in (Acceptor(stack(), 1, dropout=0.5), Transducer(stack(), 1, dropout=0.5)):
        model.readout.W.data = np.ones((H, 1))
        xs = features()

        def read(model=model, xs=xs):
            out = model(xs)
            return (out[0] if isinstance(out, tuple) else out).data

        assert (read() != read()).any()
        model.eval()
        assert (read() == read()).all()


# -- transducers -------------------------------------------------------------------------------------------------------


@ragged_or_not
def test_a_transducer_labels_each_step_and_goes_on(lengths):
    model = Transducer(stack(tr.cells.LSTM, layers=2), C, embedding=embedding())
    ids = some_ids()
    logits, state = model(ids, lengths=lengths)
    ys, finals = model.rnn(model.embedding(ids), lengths=lengths)
    same(logits.data, ys.data @ model.readout.W.data + model.readout.b.data)
    cut = None if lengths is None else np.minimum(lengths, 2)
    first, between = model(ids[:2], lengths=cut)
    second, end = model(ids[2:], between, lengths=None if lengths is None else lengths - cut)
    same(np.concatenate([first.data, second.data]), logits.data)
    for a, b, c in zip(sum(end, ()), sum(state, ()), sum(finals, ()), strict=True):
        same(a.data, b.data)
        same(c.data, b.data)


# -- encoders and decoders ---------------------------------------------------------------------------------------------


@ragged_or_not
@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_an_encoder_gives_one_tuple_a_layer(lengths, merge):
    rnn = stack(tr.cells.LSTM, layers=2, bidirectional=True, merge=merge)
    states = Encoder(rnn)(features(), lengths)
    _, both = rnn(features(), lengths=lengths)
    for layer, merged in enumerate(states):
        for k in range(2):
            one, other = both[2 * layer][k].data, both[2 * layer + 1][k].data
            same(merged[k].data, np.concatenate([one, other], 1) if merge == "concat" else one + other)
    single = stack(tr.cells.LSTM, layers=2)
    for a, b in zip(Encoder(single)(features(), lengths), single(features(), lengths=lengths)[1], strict=True):
        np.testing.assert_array_equal(a[1].data, b[1].data)


@ragged_or_not
def test_the_decoder_starts_from_the_encoders_last_states(lengths):
    """Against the cells themselves, run op by op."""
    model = translator()
    src, tgt = some_ids(), some_ids(3, B, seed=4)
    below, states = model.encoder.embedding(src), []
    for (cell,) in model.encoder.rnn.cells:
        below, state = tr.unroll(cell, below, lengths=lengths)
        states.append(state)
    above = model.decoder.embedding(tgt)
    for (cell,), state in zip(model.decoder.rnn.cells, states, strict=True):
        above, _ = tr.unroll(cell, above, state)
    same(model(src, tgt, lengths).data, model.decoder.readout(above).data)


PAIRS = {
    "gru": {"make": tr.cells.GRU, "layers": 1},
    "lstm-2": {},
    "both-ways": {"bidirectional": True},
    "both-ways-summed": {"bidirectional": True, "merge": "sum"},
    "batch-first": {"batch_first": True},
}


@pytest.mark.parametrize("pair", PAIRS)
@ragged_or_not
def test_decoding_step_by_step_equals_teacher_forcing(pair, lengths, monkeypatch):
    model = translator(**PAIRS[pair])
    time = int(model.decoder.rnn.batch_first)
    src = some_ids().T if time else some_ids()
    seen, forward = [], model.decoder.forward

    def listen(*arguments):
        logits, state = forward(*arguments)
        seen.append(logits.data)
        return logits, state

    monkeypatch.setattr(model.decoder, "forward", listen)
    ids, ends = model.greedy(src, lengths, start=START, stop=STOP, max_steps=12)
    stepwise = np.concatenate(seen, axis=time)
    monkeypatch.undo()

    ids, stepwise = (ids.T, stepwise.swapaxes(0, 1)) if time else (ids, stepwise)
    given = np.concatenate([np.full((1, B), START), ids[:-1]])
    forced = model(src, given.T if time else given, lengths).data
    forced = forced.swapaxes(0, 1) if time else forced
    same(stepwise, forced, atol=1e-10)
    for b, n in enumerate(ends):
        assert (ids[:n, b] == forced[:n, b].argmax(axis=1)).all()
        assert STOP not in ids[:n, b]
        assert (ids[n:, b] == STOP).all()
        assert n == len(ids) or forced[n, b].argmax() == STOP
    assert len(ids) == min(12, ends.max() + 1)


class Hold(tr.Cell):
    """h' = x."""

    def step(self, x, h):
        return x + 0.0 * h


class Down(tr.Cell):
    """h' = h - 1, whatever x."""

    def step(self, x, h):
        return h - 1.0 + 0.0 * x


def countdown():
    """Its encoder gives the number that src ends with; its decoder says the next lower ones, and goes on below 0."""
    decoder = Transducer(RNN(Down(1, 1, dtype="float64")), IDS, embedding=Embedding(IDS, 1, dtype="float64"))
    # The logit of id k at state h is 2 h k - k², largest at the k nearest to h.
    ids = np.arange(IDS)
    decoder.readout.W.data, decoder.readout.b.data = 2.0 * ids[None], -1.0 * ids**2
    return EncoderDecoder(Encoder(RNN(Hold(1, 1, dtype="float64"))), decoder)


def test_rows_stop_at_the_stop_id_each_at_its_own_step():
    src = np.array([4.0, 2, 6, 1]).reshape(1, 4, 1)
    ids, ends = countdown().greedy(src, start=5, stop=0, max_steps=20)
    np.testing.assert_array_equal(
        ids.T, [[3, 2, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(ends, [3, 1, 5, 0])
    assert ids.dtype == ends.dtype == np.int64
    short, ends = countdown().greedy(src, start=5, stop=0, max_steps=2)
    np.testing.assert_array_equal(short.T, [[3, 2], [1, 0], [5, 4], [0, 0]])
    np.testing.assert_array_equal(ends, [2, 1, 2, 0])
    empty, ends = countdown().greedy(src[:, :0], start=5, stop=0, max_steps=2)
    assert empty.size == ends.size == 0


def test_greedy_decoding_records_nothing_and_leaves_the_model_as_it_was(monkeypatch):
    model = translator().train()
    before, made, readout = model.state_dict(), [], model.decoder.readout.forward
    monkeypatch.setattr(model.decoder.readout, "forward", lambda x: made.append(readout(x)) or made[-1])
    model.greedy(some_ids(), start=START, stop=STOP, max_steps=3)
    assert not any(logits.requires_grad for logits in made)
    assert len(made) == 3
    assert all((before[name] == values).all() for name, values in model.state_dict().items())
    assert model.training


def test_a_trained_translator_writes_what_it_was_taught():
    """Eight ragged sequences, each to be written backwards; float32."""
    rng = np.random.default_rng(0)
    lengths = np.array([4, 2, 3, 4, 1, 2, 3, 4])
    src = rng.integers(2, IDS, (4, 8))
    tgt = np.full((5, 8), STOP)
    for b, n in enumerate(lengths):
        tgt[:n, b] = src[:n, b][::-1]
    encoder = Encoder(RNN(tr.cells.GRU(8, 24, rng=rng)), embedding=Embedding(IDS, 8, rng=rng))
    decoder = Transducer(RNN(tr.cells.GRU(8, 24, rng=rng)), IDS, embedding=Embedding(IDS, 8, rng=rng))
    model = EncoderDecoder(encoder, decoder)
    given = np.concatenate([np.full((1, 8), START), tgt[:-1]])
    optimiser = tr.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        loss = tr.cross_entropy(model(src, given, lengths).reshape(-1, IDS), tgt.reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ids, ends = model.eval().greedy(src, lengths, start=START, stop=STOP, max_steps=10)
    np.testing.assert_array_equal(ids, tgt)
    np.testing.assert_array_equal(ends, lengths)


# -- gradients ---------------------------------------------------------------------------------------------------------


class Closed(tr.Module):
    """A model with its integer arguments filled in, and all it gives in a flat tuple."""

    def __init__(self, model, *arguments, **named):
        super().__init__()
        self.model, self.arguments, self.named = model, arguments, named

    def forward(self, *inputs):
        found = self.model(*inputs, *self.arguments, **self.named)
        return tuple(flat(found))


def flat(found):
    if isinstance(found, tr.Tensor):
        return [found]
    return [t for part in found for t in flat(part)]


SMALL = {"hidden": 2, "layers": 2}
MODELS = {
    "acceptor-last": lambda: (Acceptor(stack(bidirectional=True, **SMALL), 2), LENGTHS),
    "acceptor-max": lambda: (Acceptor(stack(bidirectional=True, **SMALL), 2, pool="max"), LENGTHS),
    "acceptor-mean": lambda: (Acceptor(stack(**SMALL), 2, pool="mean"), LENGTHS),
    "encoder": lambda: (Encoder(stack(bidirectional=True, **SMALL)), LENGTHS),
}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_finite_differences(name):
    model, lengths = MODELS[name]()
    tr.gradcheck(Closed(model, lengths), features(), order=2, directions=2)


def test_gradients_of_a_transducer_equal_finite_differences():
    model = Transducer(stack(tr.cells.LSTM, **SMALL), 2)
    tr.gradcheck(Closed(model, lengths=LENGTHS), features(), order=2, directions=2)


@pytest.mark.parametrize("pair", ["gru", "both-ways"])
def test_gradients_of_an_encoder_decoder_equal_finite_differences(pair):
    model = translator(**PAIRS[pair])
    tr.gradcheck(Closed(model, some_ids(), some_ids(3, B), LENGTHS), (), order=2, directions=1)


# -- bad input ---------------------------------------------------------------------------------------------------------

RNN_32 = RNN(tr.cells.GRU(I, H, rng=0))
DECODER = Transducer(RNN(tr.cells.GRU(I, H, rng=0)), IDS, embedding=Embedding(IDS, I, rng=0))
MODEL = EncoderDecoder(Encoder(RNN_32, embedding=Embedding(IDS, I, rng=0)), DECODER)
NO_IDS = EncoderDecoder(Encoder(RNN_32), Transducer(RNN(tr.cells.GRU(I, H, rng=0)), IDS))
SRC, XS = np.zeros((T, B), int), np.zeros((T, B, I), np.float32)
GREEDY = {"start": 0, "stop": 1, "max_steps": 3}

REFUSED = [
    (lambda: Acceptor(tr.cells.GRU(I, H), 2), TypeError, r"rnn must be a tr\.nn\.RNN, got GRU"),
    (lambda: Acceptor(RNN_32, 0), ValueError, "outputs must be a positive int, got 0"),
    (lambda: Acceptor(RNN_32, 2, pool="sum"), ValueError, 'pool must be "last", "max" or "mean", got \'sum\''),
    (lambda: Acceptor(RNN_32, 2, dropout=1), ValueError, r"dropout must be in \[0, 1\), got 1"),
    (lambda: Acceptor(RNN_32, 2, embedding=np.ones), TypeError, "embedding must be a module or None, got "),
    (lambda: Transducer(RNN_32, 2, embedding=Embedding(9, 5)), ValueError, "embedding must be 3 wide and float32 .* 5"),
    (lambda: Encoder(RNN_32, embedding=embedding()), ValueError, "embedding must be .* got 3 and float64"),
    (
        lambda: Acceptor(RNN_32, 2)(XS[0]),
        ValueError,
        r"xs must be \(time, batch, features\) with 3 features, got shape",
    ),
    (lambda: Acceptor(RNN_32, 2, pool="max")(XS, [1, 2]), ValueError, r"lengths must be of shape \(4,\)"),
    (lambda: Acceptor(RNN_32, 2)(XS, [1, 2, 3, 9]), ValueError, r"lengths must lie in 0\.\.5"),
    (lambda: DECODER(SRC[0]), ValueError, r"xs must be ids \(time, batch\) for the embedding, got shape \(4,\)"),
    (lambda: DECODER(SRC + 0.5), TypeError, r"xs must be ids, integers in 0\.\.6, got float64"),
    (lambda: DECODER(SRC + IDS), IndexError, r"xs must be ids in 0\.\.6, got 7 at \(0, 0\)"),
    (lambda: DECODER(SRC, [(XS[0],), (XS[0],)]), ValueError, "state must be a list of 1, .* got 2"),
    (lambda: EncoderDecoder(DECODER, DECODER), TypeError, r"encoder must be a tr\.nn\.Encoder, got Transducer"),
    (lambda: EncoderDecoder(MODEL.encoder, RNN_32), TypeError, r"decoder must be a tr\.nn\.Transducer, got RNN"),
    (
        lambda: EncoderDecoder(Encoder(RNN_32), Transducer(RNN(tr.cells.GRU(I, H, rng=0), bidirectional=True), 2)),
        ValueError,
        "decoder must run in one direction",
    ),
    (
        lambda: EncoderDecoder(Encoder(RNN_32), Transducer(stack(), 2)),
        ValueError,
        "decoder must be float32 like the encoder, got float64",
    ),
    (
        lambda: EncoderDecoder(Encoder(stack(tr.cells.LSTM, bidirectional=True)), Transducer(stack(hidden=8), 2)),
        ValueError,
        r"decoder must take the states of the encoder, of sizes \[\(8, 8\)\] layer by layer, got \[\(8,\)\]",
    ),
    (lambda: MODEL(SRC, SRC[0]), ValueError, r"tgt must be ids \(time, batch\)"),
    (lambda: MODEL(SRC, SRC[:, :2]), ValueError, "tgt must have the 4 rows of src, got 2"),
    (lambda: MODEL.greedy(SRC, **(GREEDY | {"start": 7})), ValueError, r"start must be an id of 0\.\.6, got 7"),
    (lambda: MODEL.greedy(SRC, **(GREEDY | {"stop": -1})), ValueError, r"stop must be an id of 0\.\.6, got -1"),
    (lambda: MODEL.greedy(SRC, **(GREEDY | {"stop": "."})), TypeError, "stop must be an id, an int, got '.'"),
    (lambda: MODEL.greedy(SRC, **(GREEDY | {"max_steps": 0})), ValueError, "max_steps must be a positive int, got 0"),
    (lambda: MODEL.greedy(SRC, [1], **GREEDY), ValueError, r"lengths must be of shape \(4,\)"),
    (lambda: NO_IDS.greedy(XS, **GREEDY), ValueError, "greedy feeds ids to the decoder, which needs an embedding"),
]


@pytest.mark.parametrize(("do", "error", "message"), REFUSED)
def test_refuses(do, error, message):
    with pytest.raises(error, match=message):
        do()
