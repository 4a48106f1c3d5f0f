"""What models are built of: layers without time, stacks of recurrent layers, and the patterns of their use."""

from tinyrnn.nn.layers import Dropout, Embedding, Linear
from tinyrnn.nn.patterns import Acceptor, Encoder, EncoderDecoder, Transducer
from tinyrnn.nn.rnn import RNN, detach

__all__ = [
    "RNN",
    "Acceptor",
    "Dropout",
    "Embedding",
    "Encoder",
    "EncoderDecoder",
    "Linear",
    "Transducer",
    "detach",
]
