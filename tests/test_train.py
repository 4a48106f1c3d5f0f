"""The training loop and its models: what they compute. What stopping changes in it: test_resume.py."""

import math
from dataclasses import replace

import numpy as np
import pytest
from small_runs import TASKS, adding, bits, fit, lines, sentiment, text

import tinyrnn as tr
from tinyrnn import data, files, train
from tinyrnn.train import loop
from tinyrnn.train.models import Classifier

# -- what a run computes -----------------------------------------------------------------------------------------------


def test_it_learns_what_made_up_reviews_say(tmp_path):
    done, trainer = fit(sentiment(n=400, epochs=6, hidden=8, lr=0.05, word_dropout=0.0, average=0.9), tmp_path)
    assert done
    assert trainer.progress.tested["accuracy"] >= 0.95
    critic = train.Critic(train.read_model(tmp_path))
    for words, label, sign in ((["w1", "w2", ",", "fine", "w3"], "positive", 1), (["a", "dull", "w3"], "negative", -1)):
        ids = critic.vocabulary.encode(words)
        logit = critic.model(ids[:, None], np.array([len(ids)])).item()
        sure = 1 / (1 + math.exp(-sign * logit))
        assert sure > 0.5
        assert critic.judge(" ".join(words).replace("dull", "DULL")) == (label, pytest.approx(sure, rel=1e-6))
    assert critic.unknown("a dull w3") == ["a"]
    with pytest.raises(ValueError, match="holds no word"):
        critic.judge("?!")


@pytest.mark.parametrize("name", TASKS)
def test_same_seed_same_bits_and_another_seed_others(tmp_path, name):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(TASKS[name](seed=seed, epochs=1), tmp_path / folder)
    assert bits(tmp_path / "a") == bits(tmp_path / "b")
    assert bits(tmp_path / "a")[0] != bits(tmp_path / "c")[0]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("cell", ["gru", "elman"])
def test_every_task_runs_with_every_cell(tmp_path, name, cell):
    done, trainer = fit(TASKS[name](cell=cell, epochs=1), tmp_path)
    assert done
    assert all(math.isfinite(value) for value in trainer.progress.tested.values())


def test_the_vocabulary_is_of_the_training_part_alone():
    found = [data.Review([f"only{k}", f"only{k}", "common"], k % 2) for k in range(50)]
    task = train.sentiment_task(train.SentimentOptions(seed=2), found)
    known = {word for review in data.split_reviews(found, 2).train for word in review.words}
    assert set(task.meta["words"]) == known
    assert len(known) == 41


def test_a_row_is_judged_alike_alone_and_in_a_batch():
    rng = np.random.default_rng(0)
    model = Classifier(10, embed=4, hidden=5, rng=rng)
    model.eval()
    ids, lengths = rng.integers(1, 10, (7, 3)), np.array([7, 2, 5])
    together = model(ids, lengths).numpy()
    for b, n in enumerate(lengths):
        alone = model(ids[:n, b : b + 1], np.array([n])).numpy()
        assert alone[0] == pytest.approx(together[b], rel=1e-5)


def test_two_directions_are_one_and_its_mirror_image():
    """Of a text read from its end, with the two cells exchanged, the classifier must think the same."""
    rng = np.random.default_rng(0)
    model = Classifier(10, embed=4, hidden=5, rng=rng)
    model.eval()
    ids, lengths = rng.integers(1, 10, (6, 2)), np.array([6, 4])
    mirrored = ids.copy()
    for b, n in enumerate(lengths):
        mirrored[:n, b] = ids[:n, b][::-1]
    before = model(ids, lengths).numpy()
    model.rnn.cells[0].reverse()
    model.readout.W.data = np.roll(model.readout.W.data, 5, axis=0)
    assert model(mirrored, lengths).numpy() == pytest.approx(before, rel=1e-5)


def test_text_is_scored_in_bits_a_character(tmp_path):
    """Against the mean of -log2 of the softmax over the whole test part, computed here."""
    task = text()
    _, trainer = fit(task, tmp_path)
    writer = train.Writer(train.read_model(tmp_path))
    bits_seen, state = [], None
    for batch in task.test:
        logits, state = writer.model(batch.inputs, state)
        p = np.exp(logits.numpy().astype(np.float64))
        p /= p.sum(axis=2, keepdims=True)
        bits_seen += list(-np.log2(np.take_along_axis(p, batch.targets[..., None], axis=2).reshape(-1)))
    assert trainer.progress.tested["bits"] == pytest.approx(np.mean(bits_seen), rel=1e-5)


def test_sampling_follows_the_seed_the_temperature_and_the_alphabet(tmp_path):
    fit(text(epochs=4, hidden=12, lr=0.02), tmp_path)
    writer = train.Writer(train.read_model(tmp_path))

    def write(seed=0, **options):
        return "".join(writer.write(rng=np.random.default_rng(seed), **options))

    assert write(length=30) == write(length=30)
    assert write(length=30) != write(seed=1, length=30)
    assert write(seed=0, temperature=0, length=9) == write(seed=1, temperature=0, length=9)
    assert write(length=0) == "the"
    assert len(write(prompt="on ", length=5)) == 8
    with pytest.raises(ValueError, match="'Q' does not occur"):
        write(prompt="Q")
    with pytest.raises(ValueError, match="temperature must be >= 0, got -1"):
        write(temperature=-1)
    with pytest.raises(ValueError, match="prompt must hold"):
        write(prompt="")


def test_a_memory_starts_with_gates_that_keep():
    lstm = adding(steps=50).model.rnn.cells[0][0]
    assert tr.sigmoid(lstm.b_f).numpy() == pytest.approx(1 - 1 / 51, rel=1e-5)
    gru = adding(steps=50, cell="gru").model.rnn.cells[0][0]
    assert tr.sigmoid(gru.b_z).numpy() == pytest.approx(1 / 51, rel=1e-5)


# -- early stopping, averages, gradients that are not finite -----------------------------------------------------------


def with_validation(task, losses):
    """The task with validation results as given, epoch by epoch."""
    values = iter(losses)
    valid = task.valid

    def measure(model, batch, state):
        outcome = task.measure(model, batch, state)
        if batch is valid[0]:
            return outcome._replace(loss=tr.tensor(next(values)), hits=0, total=1)
        return outcome

    return replace(task, measure=measure, valid=valid[:1], watch="loss")


def test_it_stops_after_patience_epochs_and_keeps_the_best(tmp_path):
    done, trainer = fit(with_validation(adding(epochs=9, patience=2), [3.0, 1.0, 2.0, 1.5]), tmp_path)
    assert done
    assert trainer.progress.epoch == 4
    assert trainer.progress.best_epoch == 2
    assert [record.get("epoch") for record in lines(tmp_path)] == [1, 2, 3, 4, 2]
    assert lines(tmp_path)[-1]["test"] == trainer.progress.tested
    assert files.load(tmp_path / loop.MODEL).meta["valid"]["loss"] == 1.0


def test_patience_of_0_never_stops(tmp_path):
    _, trainer = fit(with_validation(adding(epochs=4, patience=0), [1.0, 2.0, 2.0, 2.0]), tmp_path)
    assert trainer.progress.epoch == 4


def test_the_average_follows_the_weights_and_is_what_is_kept(tmp_path):
    """Against the recursion, replayed in float64 over the weights after each step."""
    seen = []

    class See(train.Watcher):
        def batch_ends(self, done, tally):
            seen.append(task.model.state_dict())

    task = adding(average=0.7, epochs=1)
    mean = {k: v.astype(np.float64) for k, v in task.model.state_dict().items()}
    train.Trainer(task, tmp_path, watcher=See()).fit()
    for step, weights in enumerate(seen, 1):
        rate = 1 - min(0.7, step / (step + 10))
        mean = {k: v + rate * (weights[k] - v) for k, v in mean.items()}
    kept = files.load(tmp_path / loop.MODEL).model
    for name, value in mean.items():
        assert kept[name] == pytest.approx(value, rel=1e-5, abs=1e-7)
        assert (task.model.state_dict()[name] == seen[-1][name]).all(), "the model keeps its own weights"


def poisoned(task, steps):
    """The task with a loss of NaN at the given steps (from 1) of training."""
    count = iter(range(1, 10_000))

    def measure(model, batch, state):
        outcome = task.measure(model, batch, state)
        if model.training and next(count) in steps:
            return outcome._replace(loss=outcome.loss * float("nan"))
        return outcome

    return replace(task, measure=measure)


def test_a_step_without_finite_gradient_is_skipped_and_reported(tmp_path):
    _, trainer = fit(poisoned(adding(epochs=1), {2}), tmp_path)
    assert trainer.watcher.notes == ["step 2: the gradient's norm is nan; the step was skipped"]
    assert lines(tmp_path)[0]["skipped"] == 1
    assert lines(tmp_path)[0]["step"] == 3
    assert math.isfinite(lines(tmp_path)[0]["train"]["loss"])
    assert all(np.isfinite(p.data).all() for p in trainer.task.model.parameters())


def test_a_run_whose_gradients_stay_bad_gives_up(tmp_path):
    task = poisoned(adding(sequences=60, batch=1), set(range(4, 100)))
    with pytest.raises(train.TrainingError, match="20 steps in a row had no finite gradient; try a smaller --lr"):
        fit(task, tmp_path)


# -- the main job ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.demo
def test_the_main_job_reaches_its_goal(tmp_path):
    """75 % on reviews never seen, in at most 6 epochs: pytest -m slow tests/test_train.py"""
    done, trainer = fit(train.sentiment_task(train.SentimentOptions()), tmp_path)
    assert done
    assert trainer.progress.epoch <= 6
    assert trainer.progress.tested["accuracy"] >= 0.75


@pytest.mark.demo
def test_the_main_job_begins_to_learn(tmp_path):
    """A small model on a part of the real reviews, against the share of the more frequent label."""
    options = train.SentimentOptions(hidden=16, embed=32, epochs=2, lr=0.01, average=0.0)
    done, trainer = fit(train.sentiment_task(options, data.read_reviews()[::3]), tmp_path)
    assert done
    assert trainer.progress.tested["accuracy"] > 0.58
