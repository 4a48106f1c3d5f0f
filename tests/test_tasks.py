"""The tasks of the usage patterns: what they measure, what a trained model says, and how well it does in the end."""

import re

import numpy as np
import pytest
from small_runs import TASKS, agreement, dates, fit, recordings, vowels

from tinyrnn import train
from tinyrnn.train.agreement import PLURAL, SINGULAR, accuracy_by_distance, bands, held_out_sentences, near_distances
from tinyrnn.train.dates import DIGITS, STOP
from tinyrnn.train.task import PANELS

# -- kinds -------------------------------------------------------------------------------------------------------------


def test_there_is_a_small_run_of_every_kind():
    assert list(train.KINDS) == list(TASKS)


@pytest.mark.parametrize("kind", train.KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_offers_its_options_with_help_and_a_default_in_range(kind):
    offered = kind.options.offered()
    assert {"seed", "cell", "hidden", "batch", "epochs", "patience", "lr", "clip"} <= set(offered)
    for name, (default, about) in offered.items():
        assert default == getattr(kind.options(), name)
        assert about.help.endswith(".")
        assert about.panel in PANELS
        assert about.least is None or default >= about.least
        assert about.most is None or default <= about.most
        assert not about.choices or default in about.choices


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_kind_it_is_and_gives_the_same_batches_again(name):
    task, again = TASKS[name](), TASKS[name]()
    assert task.name == name
    assert isinstance(task.options, train.KINDS[name].options)
    for number in (0, 1):
        for one, other in zip(task.train(number), again.train(number), strict=True):
            assert (one.inputs == other.inputs).all()
            assert (one.targets == other.targets).all()


@pytest.mark.parametrize("name", ["dates", "agreement"])
def test_every_epoch_is_new_and_another_seed_is_too(name):
    task = TASKS[name]()
    first = [batch.inputs.tolist() for batch in task.train(0)]
    assert first != [batch.inputs.tolist() for batch in task.train(1)]
    assert first != [batch.inputs.tolist() for batch in TASKS[name](seed=1).train(0)]


# -- vowels ------------------------------------------------------------------------------------------------------------


def test_vowels_are_standardised_by_the_training_part_alone():
    """Recordings held out to choose by, or to judge by, must not move the scale."""
    task = vowels()
    steps = np.concatenate([b.inputs[:n, k] for b in task.train(0) for k, n in enumerate(b.lengths)]).astype(float)
    assert task.meta["mean"] == pytest.approx(steps.mean(0), abs=1e-6)
    assert task.meta["deviation"] == pytest.approx(steps.std(0), rel=1e-5)
    held = np.concatenate([b.targets for b in task.valid])
    assert sorted(held) == list(range(9)), "one of each speaker"
    given = sum(len(b.targets) for b in task.train(0))
    assert given + len(held) == len(recordings(4))
    with pytest.raises(ValueError, match=r"held_out must leave recordings of each of the 9 speakers .*, got 4"):
        vowels(held_out=4)


def test_vowels_are_learned_and_heard(tmp_path):
    """Speakers who differ in one channel by seven deviations, told apart from text too."""
    _, trainer = fit(vowels(hidden=8, epochs=12, lr=0.03, average=0.0, noise=0.1, dropout=0.1), tmp_path)
    assert trainer.progress.tested["accuracy"] >= 0.95
    listener = train.Listener(train.read_model(tmp_path))
    sure = 0
    for values, label in recordings(2, seed=1):
        speaker, p = listener.hear(values)
        sure += speaker == label + 1
        text = "\n".join(", ".join(map(str, step)) for step in values.tolist()) + "\n\n"
        assert listener.answer(text) == train.Answer(f"speaker {speaker}  {p:.1%}")
    assert sure == round(trainer.progress.tested["accuracy"] * 18)
    for text, says in [
        ("1 2 3", "a line a step of 12 numbers, got 3 in line 1"),
        ("one", "could not convert string to float: 'one'"),
        ("", "must be one step or more of 12 finite numbers"),
        ("nan " * 12, "must be one step or more of 12 finite numbers"),
    ]:
        with pytest.raises(ValueError, match=says):
            listener.answer(text)


def test_noise_and_averages_leave_the_evaluation_alone():
    model = vowels(noise=0.5).model
    batch = vowels().test[0]
    model.eval()
    assert (model(batch.inputs, batch.lengths).numpy() == model(batch.inputs, batch.lengths).numpy()).all()
    model.train()
    assert (model(batch.inputs, batch.lengths).numpy() != model(batch.inputs, batch.lengths).numpy()).any()


# -- dates -------------------------------------------------------------------------------------------------------------


def test_dates_count_exact_matches_as_greedy_decoding_makes_them(tmp_path):
    """The share that `measure` reports, from what the decoder is given, against decoding by itself and ISO texts."""
    task = dates(hidden=24, embed=12, dates=1500, held_out=100, epochs=9, batch=30, lr=0.02)
    _, trainer = fit(task, tmp_path)
    tested = trainer.progress.tested["accuracy"]
    assert 0.02 < tested < 0.98, "neither all nor nothing, or this test shows little"
    rewriter, hits, total = train.Rewriter(train.read_model(tmp_path)), 0, 0
    for batch in task.test:
        wanted = ["".join(DIGITS[k] for k in column[:-1]) for column in batch.targets.T]
        assert (batch.targets[-1] == STOP).all()
        assert all(re.fullmatch(r"(19[5-9]|20[0-4])\d-[01]\d-[0-3]\d", iso) for iso in wanted)
        rows = zip(batch.inputs.T, batch.lengths, strict=True)
        texts = [rewriter.alphabet.decode(ids[:n]) for ids, n in rows]
        hits += sum(a == b for a, b in zip(rewriter.rewrite(texts), wanted, strict=True))
        total += len(wanted)
    assert tested == pytest.approx(hits / total)


def test_held_out_days_are_in_no_training_batch():
    task = dates(held_out=2000, dates=3000)

    def days(batches):
        return {tuple(column) for batch in batches for column in batch.targets.T}

    seen = days(task.train(0)) | days(task.train(1))
    assert len(seen) > 4500
    assert not seen & (days(task.valid) | days(task.test))
    assert not days(task.valid) & days(task.test)


def test_what_a_date_model_refuses_and_what_it_notes(tmp_path):
    fit(dates(epochs=1), tmp_path)
    rewriter = train.Rewriter(train.read_model(tmp_path))
    text, note = rewriter.answer(" 3rd of May 2021\n")
    assert len(text) <= 10
    assert note in ("", "there is no such day")
    for given, says in [
        ("", "a date must have 1 to 60 characters, got 0"),
        ("5" * 61, "a date must have 1 to 60 characters, got 61"),
        ("3 mä 2021?", "a date has no '\\?', 'ä'"),
    ]:
        with pytest.raises(ValueError, match=says):
            rewriter.answer(given)


# -- agreement ---------------------------------------------------------------------------------------------------------


def test_agreement_is_the_loss_of_all_words_and_the_choice_of_one():
    """Against NumPy, row by row, in float64."""
    task = agreement(hidden=8)
    for batch in task.test:
        outcome = task.measure(task.model, batch, None)
        losses, right = [], 0
        for b, n in enumerate(batch.lengths):
            logits, _ = task.model(batch.inputs[:n, b : b + 1])
            p = np.exp(logits.numpy()[:, 0].astype(np.float64))
            p /= p.sum(axis=1, keepdims=True)
            losses += list(-np.log(p[np.arange(n), batch.targets[:n, b]]))
            right += (p[-1, PLURAL] > p[-1, SINGULAR]) == (batch.targets[n - 1, b] == PLURAL)
        assert outcome.loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
        assert (outcome.hits, outcome.total) == (right, len(batch.lengths))


def test_whatever_forgets_the_subject_is_right_in_a_half():
    """A model that is only shown what follows the subject, at any weights."""
    task = agreement(hidden=8, held_out=50)

    def blind(model, batch, state):
        inputs = batch.inputs.copy()
        inputs[1] = 0
        return task.measure(model, batch._replace(inputs=inputs), state)

    hits = sum(blind(task.model, batch, None).hits for batch in task.test)
    assert hits == sum(len(batch.lengths) for batch in task.test) / 2


def test_the_table_is_the_test_by_distance(tmp_path):
    task = agreement(hidden=8, epochs=3, longest=16, held_out=200, sentences=300, lr=0.02)
    _, trainer = fit(task, tmp_path)
    speaker = train.Speaker(train.read_model(tmp_path))
    table = accuracy_by_distance(speaker.model, task.options)
    found = [s.distance for s in held_out_sentences(task.options)]
    sizes = [sum(first <= d <= last for d in found) for first, last in bands(task.options)]
    assert sum(sizes) == len(found) == 400
    assert np.dot(table, sizes) / 400 == pytest.approx(trainer.progress.tested["accuracy"])
    assert max(found) == 24
    verb, p = speaker.verb("The CATS, which the dog sees,")
    assert verb in ("was", "were")
    assert 0.5 <= p <= 1
    assert speaker.answer("the cats , which the dog sees ,") == train.Answer(f"{verb}  {p:.1%}")
    with pytest.raises(ValueError, match="no sentence has the word tiger; there are the, "):
        speaker.answer("the tiger")
    with pytest.raises(ValueError, match="holds no word"):
        speaker.answer(" ")


@pytest.mark.parametrize("longest", [8, 9, 11, 16, 40, 43, 60])
def test_bands_take_every_distance_once(longest):
    options = train.AgreementOptions(longest=longest)
    found = bands(options)
    assert found[:2] == [(0, 0), (1, 3)]
    assert [d for first, last in found for d in range(first, last + 1)] == list(range(longest * 3 // 2 + 1))


def test_near_distances_are_drawn_as_said():
    options = train.AgreementOptions(typical=10, longest=30)
    drawn = near_distances(np.random.default_rng(0), 20_000, options)
    assert set(drawn) == {0, 1, *range(3, 31)}
    p = 0.1 * 0.9 ** np.arange(3)
    for distance, share in zip((0, 1, 3), p, strict=True):
        assert drawn.count(distance) / 20_000 == pytest.approx(share, abs=4 * np.sqrt(share / 20_000))


# -- the goals ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.vowels
@pytest.mark.parametrize("seed", range(3))
def test_vowels_reach_their_goal(tmp_path, seed):
    """95 % of the 370 test recordings, in seconds."""
    _, trainer = fit(train.vowels_task(train.VowelsOptions(seed=seed)), tmp_path)
    assert trainer.progress.tested["accuracy"] >= 0.95


@pytest.mark.slow
def test_dates_reach_their_goal(tmp_path):
    """99 % of held-out days in all ten characters, in a minute or two."""
    _, trainer = fit(train.dates_task(train.DatesOptions()), tmp_path)
    assert trainer.progress.tested["accuracy"] > 0.99
    rewriter = train.Rewriter(train.read_model(tmp_path))
    assert rewriter.answer("3rd of May 2021").text == "2021-05-03"


@pytest.mark.slow
def test_agreement_shows_what_the_lectures_claim(tmp_path):
    """Side by side all cells make the verb agree; over 20 words and more the Elman cell guesses, and the gated hold."""
    table = {}
    for cell in ("elman", "gru", "lstm"):
        options = train.AgreementOptions(cell=cell)
        fit(train.agreement_task(options), tmp_path / cell)
        model = train.Speaker(train.read_model(tmp_path / cell)).model
        table[cell] = dict(zip(bands(options), accuracy_by_distance(model, options), strict=True))
    for row in table.values():
        assert row[0, 0] > 0.98
    far = [band for band in table["lstm"] if band[0] >= 20]
    assert max(table["elman"][band] for band in far) < 0.75
    assert min(table[cell][band] for cell in ("gru", "lstm") for band in far) > 0.95
