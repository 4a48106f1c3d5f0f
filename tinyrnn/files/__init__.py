"""Files: checkpoints of a training run, `tr.files.save` and `load`, and modules by themselves, `tr.save` and `tr.load`.

Both are safetensors files, written all or nothing, and reading them never runs code; see `tinyrnn.files.container`.

    model = tr.nn.RNN(tr.cells.GRU(8, 16), 2)
    optimiser = tr.optim.Adam(model.parameters())
    tr.files.save("last.safetensors", model, optimiser, meta={"epoch": 3})      # the state of a run, for code that
    tr.files.load("last.safetensors").restore(model, optimiser)                 # makes the model itself

    tr.save("model.safetensors", model)                                         # the model, classes and options too
    model = tr.load("model.safetensors")
"""

from tinyrnn.files.checkpoints import FORMAT, Checkpoint, load, save
from tinyrnn.files.container import FORMATS, CheckpointError, write

__all__ = ["FORMAT", "FORMATS", "Checkpoint", "CheckpointError", "load", "save", "write"]
